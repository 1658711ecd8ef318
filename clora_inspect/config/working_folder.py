"""Work in the folder that a job's paths are relative to."""

from __future__ import annotations

import sys
from contextlib import chdir, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Paths and modules that a configuration names are found from its own folder, wherever the
    command runs.
    """
    here = str(folder)
    with chdir(folder):
        sys.path.insert(0, here)
        try:
            yield
        finally:
            if here in sys.path:
                sys.path.remove(here)
