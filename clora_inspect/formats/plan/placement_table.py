"""The table of adapters: one row per target with its layers folded, under titles where adapters
stand in several places of a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.patterns import canonical_names
from clora.plan import TowerKind
from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.plan.filtering import pattern_hits
from clora_inspect.formats.plan.rows import PlacementRow, Section, sections
from clora_inspect.formats.quantities import count
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.job.finding import Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.module_path import global_path
from clora_inspect.job.place import Place

if TYPE_CHECKING:
    from clora.plan import ExpertFacts, Placement
    from clora_inspect.formats.glyphs import Glyphs
    from clora_inspect.formats.plan.view import View
    from clora_inspect.job.plan import JobPlan

COLUMNS = {
    "target": Column("target"),
    "by": Column("chosen by", spare=4),
    "inside": Column("inside", spare=6),
    "shape": Column("in {arrow} out", spare=5),
    "rank": Column("rank", right=True, spare=1),
    "a": Column("A, per rank", right=True, spare=3),
    "b": Column("B, per rank", right=True, spare=3),
    "layers": Column("layers", spare=2),
    "adapters": Column("adapters", right=True, spare=7),
    "params": Column("params", right=True),
}
"""Name of a column after `--columns` -> the column."""

MOST_UNMATCHED = 10
"""Largest number of unmatched targets that get a row of their own."""

# The sections of a plain dense model need no titles: the names of the targets tell them apart.
_USUAL_PLACES = {Place.ATTENTION, Place.MLP}


def placement_lines(plan: JobPlan, look: Look, view: View) -> list[str]:
    """Return the lines of the table, with a row for each unmatched target that the user wrote."""
    found = sections(plan, keep=lambda placement: _kept(placement, view.pattern), by_layer=view.expand)
    names = view.columns or _useful([row for _, rows in found for row in rows])
    columns = [COLUMNS[name] for name in names]
    if "shape" in names:
        # The arrow depends on the terminal; the keys of `COLUMNS` are needed before it is known.
        columns[names.index("shape")] = Column(f"in {look.glyphs.arrow} out", spare=COLUMNS["shape"].spare)
    lines: list[Line] = []
    # Arrows stand below each other when the numbers before them have one width.
    width = max((len(str(row.in_features)) for _, rows in found for row in rows), default=0)
    several = plan.towers.are_several
    titled = several or any(
        section.in_mtp or section.experts or section.place not in _USUAL_PLACES for section, _ in found
    )
    for section, rows in found:
        if titled:
            lines.append(Line((_title(section, rows, look.glyphs, with_tower=several),), Style.BOLD))
        lines += [Line(_cells(row, names, look, width)) for row in rows]
    if not lines:
        lines.append(
            Line(("no adapter" + (f' matches the filter "{view.pattern}"' if view.pattern else ""),), Style.YELLOW)
        )
    if not view.pattern:
        lines += _unmatched_lines(plan)
    return table(columns, lines, look)


def _kept(placement: Placement, pattern: str | None) -> bool:
    if pattern is None:
        return True
    path = global_path(placement.module, placement.global_layer)
    parts = canonical_names(path)
    # One adapter beside a whole fused linear is found by the name of each part.
    names = [parts[placement.part]] if placement.part else [path, *parts.values()]
    return pattern_hits(pattern, [*names, placement.target or ""])


def _useful(rows: list[PlacementRow]) -> tuple[str, ...]:
    """Return all columns except those that tell nothing, such as the rank if all rows have one."""
    # The number of adapters follows from the layers; `--columns` still offers it.
    dull = {"adapters"}
    if not any(row.chosen_by for row in rows):
        dull.add("by")
    if not any(row.inside for row in rows):
        dull.add("inside")
    if len({row.dim for row in rows}) < 2:
        dull.add("rank")
    if not any(row.layers for row in rows):
        dull.add("layers")
    return tuple(name for name in COLUMNS if name not in dull)


def _cells(row: PlacementRow, names: tuple[str, ...], look: Look, width: int) -> tuple[str, ...]:
    """Return the cells of a row; `width` is the width of the largest number of input features."""
    glyphs = look.glyphs
    cells = {
        "target": row.name,
        "by": row.chosen_by or glyphs.dot,
        "inside": row.inside or glyphs.dot,
        "shape": f"{row.in_features:>{width}} {glyphs.arrow} {row.out_features}",
        "rank": str(row.dim),
        "a": look.shape(row.a_shape),
        "b": look.shape(row.b_shape),
        "layers": fold(row.layers) or glyphs.dot,
        "adapters": count(row.placements),
        "params": count(row.params),
    }
    return tuple(cells[name] for name in names)


def _title(section: Section, rows: list[PlacementRow], glyphs: Glyphs, *, with_tower: bool) -> str:
    """Return the title of a section: its tower, its place in a layer, LoRA ranks, and facts of its
    experts.
    """
    ranks = sorted({row.dim for row in rows})
    smallest_and_largest = dict.fromkeys((ranks[0], ranks[-1]))
    # A user's own layers have linears of other names.
    place = "layers" if section.in_decoder and section.place is Place.OUTSIDE else section.place
    place = ("multi-token prediction, " if section.in_mtp else "") + place
    # The label of another tower says already that it is outside the decoder.
    told = with_tower and section.place is Place.OUTSIDE and section.tower.kind is not TowerKind.LANGUAGE
    parts = [
        *([section.tower.label] if with_tower else []),
        *([] if told else [place]),
        f"rank {glyphs.dash.join(map(str, smallest_and_largest))}",
    ]
    if section.experts:
        parts += _expert_words(section.experts)
    return f" {glyphs.dot} ".join(parts)


def _expert_words(experts: ExpertFacts) -> list[str]:
    """Describe how routed experts are spread over the ranks, and whether they share a pair."""
    spread = f"{experts.num_experts} routed, {experts.num_local_experts} on each of {experts.ep} expert-parallel ranks"
    return [
        spread if experts.ep > 1 else f"{experts.num_experts} routed on every rank",
        "a pair for every expert" if experts.per_expert else "one pair for all experts",
    ]


def _unmatched_lines(plan: JobPlan) -> list[Line]:
    """Return a row for each unmatched target that the user wrote, or one row for the rest of many.

    Unmatched default targets are not listed: most models lack some. The severity of CL101 tells the
    two apart.
    """
    if not any(finding.code == "CL101" and finding.severity is Severity.ERROR for finding in plan.findings):
        return []
    shown = [f"{target}  0 modules" for target in plan.unmatched_targets[:MOST_UNMATCHED]]
    rest = len(plan.unmatched_targets) - len(shown)
    return [Line((words,), Style.RED) for words in (*shown, *([f"and {count(rest)} more, 0 modules"] if rest else ()))]
