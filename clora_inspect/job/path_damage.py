"""Tell what is wrong with the path of a module in a file that may be damaged. Pure text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clora.limits import LARGEST_PATH, LARGEST_PATH_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clora.plan import Tower

_LONG_NUMBER = re.compile(r"\d{8}")


def damage_of_path(path: str) -> str | None:
    """Return what is wrong with `path`, to follow its name in a sentence; None when it is right."""
    if len(path) > LARGEST_PATH:
        return f"has {len(path):,} characters, and {LARGEST_PATH:,} is the most"
    if path.count(".") >= LARGEST_PATH_NAMES:
        return f"has {path.count('.') + 1:,} names, and {LARGEST_PATH_NAMES} is the most"
    # Three dots or a dot at an end stand beside an empty name.
    if not path or ".." in path or path[0] == "." or path[-1] == ".":
        return f"is {path[:80]!r}, which has an empty name"
    if has_long_number(path):
        return f"is {path[:80]!r}, which has a number of more than 7 digits"
    return None


def damage_of_towers(towers: Sequence[Tower]) -> Iterator[str]:
    """Yield what is wrong with the paths of `towers`, to follow the name of their list."""
    for number, tower in enumerate(towers):
        for path in (tower.path, *tower.blocks):
            # The tower that is the model itself has an empty path.
            damage = damage_of_path(path) if path else None
            if damage is not None:
                yield f"[{number}]: a path {damage}"


def has_long_number(path: str) -> bool:
    """Return whether `path` has a number that no layer or expert can have."""
    return _LONG_NUMBER.search(path) is not None
