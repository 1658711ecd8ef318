"""Layer numbers, folded: `{0..31}` instead of thirty-two numbers. Pure text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_LIST = 3
"""Runs that are written out; more than these are summed up as `18 of {0..51}`."""


def fold(layers: Iterable[int]) -> str:
    """The shortest way to write a set of layer numbers.

    - one layer: ``7``
    - neighbours: ``{0..31}``
    - every fourth: ``{3..47..4}``, as a shell's brace expansion writes it
    - some runs: ``{0..2,58..60}``
    - anything wilder: ``18 of {0..51}``
    - none: the empty string
    """
    numbers = sorted(set(layers))
    if not numbers:
        return ""
    if len(numbers) == 1:
        return str(numbers[0])
    step = numbers[1] - numbers[0]
    if len(numbers) > 2 and step > 1 and numbers == list(range(numbers[0], numbers[-1] + 1, step)):
        return f"{{{numbers[0]}..{numbers[-1]}..{step}}}"
    runs = runs_of(numbers)
    if len(runs) > LONGEST_LIST:
        return f"{len(numbers)} of {{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(f'{first}..{last}' if last > first else f'{first}' for first, last in runs)}}}"


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last number of each run of consecutive numbers (ascending)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
