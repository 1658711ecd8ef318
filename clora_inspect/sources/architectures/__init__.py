"""The built-in architectures: one data file each, in the field names of a Hugging Face
`config.json`.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The built-in architectures, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def path_of(name: str) -> Path | None:
    """The data file of a built-in architecture; None for a name that is none."""
    path = _FOLDER / f"{name}.json"
    return path if name in names() else None
