"""Enter the folder that a job's paths are relative to."""

from __future__ import annotations

from contextlib import chdir, contextmanager
from typing import TYPE_CHECKING

from clora_inspect.sources.user_modules import forget_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make `folder` the current one until the block ends, so that the files and functions that a
    configuration names are found wherever the command runs.

    Modules in it can be imported once a job names a function, see `sources.user_modules`.
    """
    with chdir(folder):
        try:
            yield
        finally:
            forget_folders()
