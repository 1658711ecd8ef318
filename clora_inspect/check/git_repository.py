"""Find where the configuration is inside its git repository. Pure.

Annotations (GitHub, SARIF) name files from the root of the repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def folder_in_repository(folder: Path) -> str:
    """Return the path of `folder` from the root of its git repository, such as `services/train`.

    It is empty for the root itself and where there is no repository.
    """
    folder = folder.resolve()
    # `exists` and not `is_dir`: in a worktree or a submodule `.git` is a file.
    root = next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)
    return "" if root == folder else folder.relative_to(root).as_posix()
