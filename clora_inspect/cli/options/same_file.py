"""Tell whether two paths, of files that exist or not, would be one file. Writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether writing to `one` would replace `other`."""
    first, second = _resolved(one), _resolved(other)
    if first == second:
        return True
    return str(first).casefold() == str(second).casefold() and _ignores_case(first.parent)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself, a null character: writing says so
        return path.absolute()


def _ignores_case(folder: Path) -> bool:
    """Return whether names in `folder` that differ in case alone are one, as on most Macs."""
    for existing in (folder, *folder.parents):
        other = existing.with_name(existing.name.swapcase()) if existing.name else existing
        if existing.exists() and other != existing:
            return other.exists() and other.samefile(existing)
    return False
