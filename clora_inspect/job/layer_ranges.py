"""Write many layer numbers in few words: `{0..31}` for thirty-two layers. Pure text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.job.cluster import Range

LONGEST_LIST = 3
"""Number of runs that are written out. More of them are summed up as `{18 of 0..51}`."""


def fold(numbers: Iterable[int]) -> str:
    """Return the shortest way to write a set of numbers.

    - one number: ``7``
    - neighbours: ``{0..31}``
    - every fourth: ``{3..47..4}``, as a shell's brace expansion writes it
    - some runs: ``{0..2,58..60}``
    - everything else: ``{18 of 0..51}``, in braces because ``layers.18`` would be a layer
    - no number: the empty string
    """
    distinct = sorted(set(numbers))
    if not distinct:
        return ""
    first, last = distinct[0], distinct[-1]
    if len(distinct) == 1:
        return str(first)
    # Two numbers always have a step. It takes three to make a pattern.
    step = distinct[1] - first
    if len(distinct) > 2 and step > 1 and distinct == list(range(first, last + 1, step)):
        return f"{{{first}..{last}..{step}}}"
    found = runs_of(distinct)
    if len(found) > LONGEST_LIST:
        return f"{{{len(distinct)} of {first}..{last}}}"
    return f"{{{','.join(f'{low}..{high}' if high > low else f'{low}' for low, high in found)}}}"


def runs_of(numbers: Iterable[int]) -> list[Range]:
    """Return the first and the last number of each run of consecutive numbers, in rising order."""
    found: list[Range] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
