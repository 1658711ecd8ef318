"""Let the modules of a user be imported, after the standard library and all that is installed.

A `torch.py` beside the user's function must not be imported in place of torch, so their folders are
no entries of `sys.path`: a finder of our own looks into them when all others have found nothing.
Even at the end of `sys.path` a file `megatron.py` would be found before the installed `megatron`,
because that is a namespace package, to which Python prefers a module anywhere on the path.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType


class _UserModules:
    """A finder of top-level modules in some folders."""

    def __init__(self) -> None:
        self.folders: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        # Submodules are found by the path of their package.
        return PathFinder.find_spec(name, self.folders, target) if path is None else None


_finder = _UserModules()


def import_from(folder: Path) -> None:
    """Let modules in `folder` be imported from now on. Called only if a job names a function."""
    name = str(folder.resolve())
    if name not in _finder.folders:
        _finder.folders.append(name)
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)


def forget_folders() -> None:
    """Let no more modules be imported from the folders. Those that were imported stay."""
    _finder.folders.clear()
