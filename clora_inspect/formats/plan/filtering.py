"""What a view's filter lets pass. Pure text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.patterns import matches

if TYPE_CHECKING:
    from collections.abc import Iterable


def pattern_hits(pattern: str, names: Iterable[str]) -> bool:
    """Whether a filter hits one of `names`: as a target would, or, without a wildcard, as a part of
    it.
    """
    plain = not any(character in pattern for character in "*{")
    return any(matches(pattern, name) or (plain and pattern in name) for name in names)
