"""A name that no file has yet, to be proposed or taken."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """`STEMSUFFIX` in `folder`, or with the first number from 2 on that is free: `STEM-2SUFFIX`."""
    path = folder / f"{stem}{suffix}"
    numbers = count(2)
    while path.exists():
        path = folder / f"{stem}-{next(numbers)}{suffix}"
    return path
