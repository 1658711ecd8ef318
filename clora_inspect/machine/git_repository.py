"""Find the git repository that a folder belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def repository_of(folder: Path) -> Path:
    """Return the root of the git repository that `folder` is in, or `folder` where there is none.

    Symbolic links in it are resolved.
    """
    folder = folder.resolve()
    # `exists` and not `is_dir`: in a worktree or a submodule `.git` is a file.
    return next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)


def is_in_repository(path: Path, folder: Path) -> bool:
    """Return whether `path` is in the repository of `folder`, with all symbolic links resolved."""
    try:
        return path.resolve().is_relative_to(repository_of(folder))
    except (OSError, RuntimeError, ValueError):  # a name that no file can have; a link to itself
        return False


def folder_in_repository(folder: Path) -> str:
    """Return the path of `folder` from the root of its git repository, such as `services/train`.

    It is empty for the root itself and where there is no repository. Annotations (GitHub, SARIF)
    name files from there.
    """
    root = repository_of(folder)
    return "" if root == folder.resolve() else folder.resolve().relative_to(root).as_posix()
