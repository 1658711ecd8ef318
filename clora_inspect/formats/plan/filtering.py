"""`pattern_hits()`, which decides whether `--filter PATTERN` keeps a row of the plan's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.patterns import matches

if TYPE_CHECKING:
    from collections.abc import Iterable


def pattern_hits(pattern: str, names: Iterable[str]) -> bool:
    """Return whether `pattern` selects one of `names` as a target would.

    A pattern without a wildcard also hits where it is a part of a name.
    """
    # A bare target selects whole names only, and people who search type parts of names.
    plain = not any(character in pattern for character in "*{")
    return any(matches(pattern, name) or (plain and pattern in name) for name in names)
