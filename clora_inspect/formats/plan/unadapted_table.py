"""The table of modules that hold parameters and get no adapter, each with its reason."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.plan.filtering import pattern_hits
from clora_inspect.formats.plan.unadapted import UnadaptedRow, skip_name, unadapted_rows
from clora_inspect.formats.quantities import count
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.module_path import global_path

if TYPE_CHECKING:
    from clora.plan import Skip
    from clora_inspect.formats.plan.view import View
    from clora_inspect.job.plan import JobPlan

COLUMNS = (
    Column("not adapted"),
    Column("class", spare=2),
    Column("reason"),
    Column("layers", spare=1),
    Column("modules", right=True),
)


def unadapted_lines(plan: JobPlan, look: Look, view: View) -> list[str]:
    rows = unadapted_rows(plan, keep=lambda skip: _kept(skip, view.pattern), by_layer=view.expand)
    lines: list[Line] = []
    for tower, of_tower in groupby(rows, attrgetter("tower")):
        if plan.towers.are_several:
            lines.append(Line((tower.label,), Style.BOLD))
        lines += [Line(_cells(row, look.glyphs.dot)) for row in of_tower]
    return table(COLUMNS, lines or [Line(("every module that holds parameters gets an adapter",), Style.GREEN)], look)


def _kept(skip: Skip, pattern: str | None) -> bool:
    return pattern is None or pattern_hits(
        pattern, (global_path(skip.module, skip.global_layer), skip_name(skip), skip.class_name)
    )


def _cells(row: UnadaptedRow, dot: str) -> tuple[str, ...]:
    reason = f"{row.reason.word} by {row.by}" if row.by else row.reason.word
    return row.name, row.class_name, reason, fold(row.layers) or dot, count(row.count)
