"""Suggest the known names that are most like an unknown one, for messages."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: `. Did you mean A or B?`, or a bare `.` if no name is near."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)
    return f". Did you mean {' or '.join(by_folded[match] for match in close)}?" if close else "."
