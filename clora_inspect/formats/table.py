"""A table of aligned columns. Rows are never wrapped: on a narrow terminal the least important
columns are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

INDENT = "  "
GAP = "   "


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    """True if cells are aligned at the right, as numbers are."""
    spare: int = 0
    """Order in which a narrow terminal leaves columns out: the largest number first, 0 never."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row. A row with a single cell is a heading or a remark over the whole width."""

    cells: tuple[str, ...]
    style: Style = Style.PLAIN


def table(columns: Sequence[Column], lines: Iterable[Line], look: Look) -> list[str]:
    """Return the printed lines: the titles, then `lines`, all without trailing blanks."""
    lines = [Line(tuple(column.title for column in columns), Style.DIM), *lines]
    # A heading over the whole width may be longer than the first column: it sets no widths.
    rows = [line.cells for line in lines if len(line.cells) == len(columns)]
    widths = [max(len(row[number]) for row in rows) for number in range(len(columns))]
    shown = _fitting(columns, widths, look.width)
    return [INDENT + look.paint(_aligned(line, columns, widths, shown).rstrip(), line.style) for line in lines]


def _aligned(line: Line, columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int]) -> str:
    if len(line.cells) != len(columns):
        return line.cells[0]
    return GAP.join(
        line.cells[number].rjust(widths[number]) if columns[number].right else line.cells[number].ljust(widths[number])
        for number in shown
    )


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> list[int]:
    """Return the indices of the columns that fit into `width`."""
    shown = list(range(len(columns)))
    while width is not None and _total(widths, shown) > width:
        least = max(shown, key=lambda number: columns[number].spare)
        # The other columns must stay, even if the terminal wraps the lines.
        if not columns[least].spare:
            break
        shown.remove(least)
    return shown


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return len(INDENT) + sum(widths[number] for number in shown) + len(GAP) * (len(shown) - 1)
