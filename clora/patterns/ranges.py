"""The ranges that follow one node of an automaton, each in a pattern of its own."""

from __future__ import annotations

from bisect import bisect_right

_BLOCK = 64
"""Patterns between two remembered unions: a compromise of memory and time."""


class Ranges:
    """Tells which patterns have a number in their range. Sets of patterns are integers, in which
    bit n stands for pattern n.
    """

    def __init__(self) -> None:
        self.largest = 0
        """The last number of all ranges."""
        self._firsts: list[tuple[int, int]] = []
        """Number and pattern."""
        self._ends: list[tuple[int, int]] = []
        """The number behind the last one of a range, and the pattern."""
        self._unions: tuple[_Union, _Union] | None = None

    def add(self, first: int, last: int, pattern: int) -> None:
        self._firsts.append((first, pattern))
        self._ends.append((last + 1, pattern))
        self.largest = max(self.largest, last)

    def containing(self, number: int) -> int:
        """Return the patterns whose range has `number`."""
        if self._unions is None:
            self._unions = _Union(self._firsts), _Union(self._ends)
        begun, ended = self._unions
        return begun.up_to(number) & ~ended.up_to(number)


class _Union:
    """Numbers with a pattern each, and the union of the patterns of the smallest ones."""

    def __init__(self, entries: list[tuple[int, int]]) -> None:
        entries.sort()
        self._numbers = [number for number, _ in entries]
        self._patterns = [pattern for _, pattern in entries]
        self._blocks = [0]
        """The unions of the first 0, 64, 128... patterns."""
        union = 0
        for count, pattern in enumerate(self._patterns, start=1):
            union |= 1 << pattern
            if count % _BLOCK == 0:
                self._blocks.append(union)

    def up_to(self, number: int) -> int:
        """Return the union of the patterns of `number` and of all smaller ones."""
        count = bisect_right(self._numbers, number)
        union = self._blocks[count // _BLOCK]
        for pattern in self._patterns[count - count % _BLOCK : count]:
            union |= 1 << pattern
        return union
