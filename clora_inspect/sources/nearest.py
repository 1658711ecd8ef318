"""Suggest the known names that are most like an unknown one, for messages."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def misspelt(name: str, known: Iterable[str]) -> str | None:
    """Return the known name of which `name` is a misspelling: one that differs by one letter, or by
    case and separators. Names that differ in their digits, or that go on by another letter than the
    last one again, name other things.
    """
    for candidate in known:
        if _letters(name) == _letters(candidate) and name != candidate:
            return candidate
        digits = [[c for c in word if c.isdigit()] for word in (name, candidate)]
        goes_on = name.startswith(candidate) and name != candidate + candidate[-1:]
        if digits[0] == digits[1] and not goes_on and _is_one_edit_away(name, candidate):
            return candidate
    return None


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _is_one_edit_away(one: str, other: str) -> bool:
    """True if one letter is wrong, missing or too many, or two neighbours are swapped."""
    short, long = sorted((one, other), key=len)
    if len(long) - len(short) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = short[:start] + short[start : start + 2][::-1] + short[start + 2 :]
    return short[start + 1 :] == long[start + 1 :] or swapped == long


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: `. Did you mean A or B?`, or a bare `.` if no name is near."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)
    return f". Did you mean {' or '.join(by_folded[match] for match in close)}?" if close else "."
