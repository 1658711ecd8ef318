"""The built-in architectures: one Hugging Face config.json each. To add one, add its file."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the built-in architectures, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def path_of(name: str) -> Path | None:
    """Return the file of a built-in architecture; None if there is none of that name."""
    path = _FOLDER / f"{name}.json"
    # Compared with the list, because a name such as `../x` must not lead out of the folder.
    return path if name in names() else None
