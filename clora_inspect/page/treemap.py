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
        row, rest = _row(pending[:number], rest)
        placed += row
    return placed


def _worst(areas: Sequence[float], side: float) -> float:
    """Return the largest side ratio of rectangles of `areas` in a row along `side`."""
    total = sum(areas)
    return max(max(side**2 * area / total**2, total**2 / (side**2 * area)) for area in areas)


def _row(areas: Sequence[float], rest: Rectangle) -> tuple[list[Rectangle], Rectangle]:
    """Return the rectangles of a row along the shorter side of `rest`, and what is left of it."""
    total = sum(areas)
    is_tall = rest.width >= rest.height
    thick = total / (rest.height if is_tall else rest.width)
    row, begin = [], 0.0
    for area in areas:
        length = area / thick
        if is_tall:
            row.append(Rectangle(rest.x, rest.y + begin, thick, length))
        else:
            row.append(Rectangle(rest.x + begin, rest.y, length, thick))
        begin += length
    if is_tall:
        return row, Rectangle(rest.x + thick, rest.y, rest.width - thick, rest.height)
    return row, Rectangle(rest.x, rest.y + thick, rest.width, rest.height - thick)
