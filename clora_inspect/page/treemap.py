"""Divide a rectangle into nearly square ones of given sizes (Bruls, Huizing and van Wijk, 2000).

The largest stand first. A row of rectangles along the shorter side takes one more as long as its
worst side ratio does not get worse; then the next row begins in what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Rectangle(NamedTuple):
    """A rectangle: its upper left corner and its sides."""

    x: float
    y: float
    width: float
    height: float


def squarified(sizes: Sequence[float], within: Rectangle) -> list[Rectangle]:
    """Return a rectangle for each of `sizes`, which are positive and fall; together they fill
    `within`.
    """
    scale = within.width * within.height / sum(sizes) if sizes else 0.0
    areas = [size * scale for size in sizes]
    placed: list[Rectangle] = []
    rest = within
    while len(placed) < len(areas):
        pending = areas[len(placed) :]
        side = min(rest.width, rest.height)
        number = 1
        while number < len(pending) and _worst(pending[: number + 1], side) <= _worst(pending[:number], side):
            number += 1
        row, rest = _row(pending[:number], sum(pending[number:]), rest)
        placed += row
    return placed


def _worst(areas: Sequence[float], side: float) -> float:
    """Return the largest side ratio of rectangles of `areas` in a row along `side`."""
    total = sum(areas)
    return max(max(side**2 * area / total**2, total**2 / (side**2 * area)) for area in areas)


def _row(areas: Sequence[float], after: float, rest: Rectangle) -> tuple[list[Rectangle], Rectangle]:
    """Return the rectangles of a row along the shorter side of `rest`, and what is left of it.

    Args:
        areas: those of the row.
        after: sum of the areas that come after the row.
        rest: the rectangle that is not filled yet.
    """
    total = sum(areas)
    is_tall = rest.width >= rest.height
    thick = total / (total + after)
    row, begin = [], 0.0
    # All lengths are shares of sides. Differences of sides would lose the digits of a thin rest.
    for area in areas:
        length = area / total
        if is_tall:
            y = rest.y + begin * rest.height
            row.append(Rectangle(rest.x, y, thick * rest.width, length * rest.height))
        else:
            x = rest.x + begin * rest.width
            row.append(Rectangle(x, rest.y, length * rest.width, thick * rest.height))
        begin += length
    left = after / (total + after)
    if is_tall:
        return row, Rectangle(rest.x + thick * rest.width, rest.y, left * rest.width, rest.height)
    return row, Rectangle(rest.x, rest.y + thick * rest.height, rest.width, left * rest.height)
