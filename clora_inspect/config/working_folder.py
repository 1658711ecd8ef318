"""Enter the folder that a job's paths are relative to."""

from __future__ import annotations

import sys
from contextlib import chdir, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make `folder` the current one, and import modules from it, until the block ends.

    So the files and functions that a configuration names are found wherever the command runs.
    """
    here = str(folder)
    with chdir(folder):
        sys.path.insert(0, here)
        try:
            yield
        finally:
            # The user's function may have removed it.
            if here in sys.path:
                sys.path.remove(here)
