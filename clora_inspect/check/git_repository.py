"""Where the configuration is inside its git repository: what annotates lines for others names files
from the root. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def folder_in_repository(folder: Path) -> str:
    """`services/train` for the folder of that name in a repository; empty for the root, and where
    there is no repository.

    `.git` is a folder, or the file that a worktree or a submodule has in its place.
    """
    folder = folder.resolve()
    root = next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)
    return "" if root == folder else folder.relative_to(root).as_posix()
