"""Compare what a command prints with what a page shows, where `...` stands for anything.

A line that is exactly `...` stands for any number of lines, and `...` in a line for any text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ANYTHING = "..."

# A line of the page that is dropped costs more than one that is changed, so that a changed line
# behind a `...` is shown as changed and not swallowed by it. Likely is a change that keeps words.
_CHANGED, _OF_OTHER_WORDS, _ADDED, _DROPPED, _SWALLOWED = 0.4, 1.0, 1.0, 1.5, 0.001


@dataclass(frozen=True)
class Pair:
    """A line of the page and the line of the output at its place, either of them None.

    The line `...` of the page comes with each line that it stands for, and last with None.
    """

    shown: str | None
    printed: str | None

    @property
    def agrees(self) -> bool:
        if self.shown is None:
            return False
        return self.shown == ANYTHING if self.printed is None else line_agrees(self.shown, self.printed)

    @property
    def is_line_of_the_page(self) -> bool:
        """Return whether this is the one pair of a line of the page (`...` has several)."""
        return self.shown is not None and (self.shown != ANYTHING or self.printed is None)


def line_agrees(shown: str, printed: str) -> bool:
    if ANYTHING not in shown:
        return shown == printed
    return re.fullmatch(".*".join(map(re.escape, shown.split(ANYTHING))), printed) is not None


def aligned(shown: tuple[str, ...], printed: tuple[str, ...]) -> list[Pair]:
    """Pair the lines so that as few as possible differ."""
    # costs[i][j]: of shown[i:] against printed[j:], and the step that begins it.
    ends = len(shown), len(printed)
    costs: dict[tuple[int, int], tuple[float, int, int, Pair | None]] = {ends: (0.0, 0, 0, None)}
    for i in range(ends[0], -1, -1):
        for j in range(ends[1], -1, -1):
            if (i, j) != ends:
                steps = _steps(shown, printed, i, j)
                costs[i, j] = min(
                    ((cost + costs[i + di, j + dj][0], di, dj, pair) for cost, di, dj, pair in steps),
                    key=lambda step: step[0],
                )
    pairs: list[Pair] = []
    i = j = 0
    while (i, j) != ends:
        _, di, dj, pair = costs[i, j]
        assert pair is not None
        pairs.append(pair)
        i, j = i + di, j + dj
    return pairs


def _steps(shown: tuple[str, ...], printed: tuple[str, ...], i: int, j: int) -> list[tuple[float, int, int, Pair]]:
    steps = []
    if i < len(shown):
        if shown[i] == ANYTHING:
            steps.append((0.0, 1, 0, Pair(ANYTHING, None)))
            if j < len(printed):
                steps.append((_SWALLOWED, 0, 1, Pair(ANYTHING, printed[j])))
        else:
            steps.append((_DROPPED, 1, 0, Pair(shown[i], None)))
            if j < len(printed):
                cost = 0.0 if line_agrees(shown[i], printed[j]) else _cost_of_change(shown[i], printed[j])
                steps.append((cost, 1, 1, Pair(shown[i], printed[j])))
    if j < len(printed):
        steps.append((_ADDED, 0, 1, Pair(None, printed[j])))
    return steps


def _cost_of_change(shown: str, printed: str) -> float:
    before, after = set(shown.split()), set(printed.split())
    return _CHANGED + _OF_OTHER_WORDS * (1 - len(before & after) / max(1, len(before | after)))


def lines_of(text: str) -> tuple[str, ...]:
    """Split output into lines without spaces at their ends and without empty lines at its end."""
    return tuple(line.rstrip() for line in text.rstrip().split("\n")) if text.strip() else ()


def difference(pairs: list[Pair], name: str, first: int) -> str | None:
    """Return the differing lines with their lines in the page, or None if there are none."""
    if all(pair.agrees for pair in pairs):
        return None
    rows, number = [], first
    for pair in pairs:
        if pair.agrees:
            rows += [f"  {pair.shown}"] * pair.is_line_of_the_page
        else:
            rows += [f"- {pair.shown}    <- {name}:{number}"] * (pair.shown is not None)
            rows += [f"+ {pair.printed}"] * (pair.printed is not None)
        number += pair.is_line_of_the_page
    return "\n".join(rows)


def rewritten(pairs: list[Pair]) -> list[str]:
    """Return the output as the page should show it: lines that agree stay as they are."""
    lines = []
    for pair in pairs:
        line = pair.shown if pair.agrees else pair.printed
        if line is not None and (pair.is_line_of_the_page or not pair.agrees):
            lines.append(line)
    return lines
