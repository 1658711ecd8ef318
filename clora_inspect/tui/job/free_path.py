"""Find a name for a new file."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return `STEMSUFFIX` in `folder`, or `STEM-2SUFFIX`, `STEM-3SUFFIX` and so on if it exists."""
    path = folder / f"{stem}{suffix}"
    numbers = count(2)
    while path.exists():
        path = folder / f"{stem}-{next(numbers)}{suffix}"
    return path
