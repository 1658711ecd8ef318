"""One snapshot, and the list of all snapshots, as text for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import count
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.job.module_path import folded, without_layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.snapshot.record import PlacementLine, Snapshot

PLACEMENTS = (
    Column("placement"),
    Column("rank", right=True),
    Column("A", spare=1),
    Column("B", spare=1),
    Column("split", spare=3),
    Column("chosen by", spare=2),
    Column("params", right=True),
)
LISTED = (
    Column("job"),
    Column("layout"),
    Column("adapters", right=True),
    Column("params", right=True),
    Column("model", spare=1),
    Column("state"),
)


@dataclass(frozen=True, slots=True)
class Listed:
    job: str
    layout: str
    snapshot: Snapshot | None
    state: str


def show(snapshot: Snapshot, layout: str, look: Look) -> Iterator[str]:
    """Yield one snapshot: its job and base model, and its placements folded over layers."""
    axes = snapshot.layout
    parts = [snapshot.job, f"{layout}: {axes.label}", snapshot.base.class_name]
    yield look.paint(f" {look.glyphs.dot} ".join(parts), Style.BOLD)
    lora = ", ".join(f"{name} {value}" for name, value in snapshot.lora.items())
    # `sha256:` and twelve digits are enough to tell two base models apart.
    yield look.paint(f"  base: {count(snapshot.base.params)} params, {snapshot.base.fingerprint[:19]}")
    yield look.paint(f"  lora: {lora}")
    if axes.pp > 1:
        yield look.paint(f"  stages: {' | '.join(axes.stages)}")
    yield ""
    yield from table(PLACEMENTS, [_placements(alike, look) for alike in _alike(snapshot.placements)], look)
    yield ""
    yield look.paint(f"  {count(snapshot.totals.placements)} adapters, {count(snapshot.totals.params)} params")


def listing(rows: Iterable[Listed], look: Look) -> Iterator[str]:
    lines = [
        Line(
            (
                row.job,
                row.layout,
                count(row.snapshot.totals.placements) if row.snapshot else "",
                count(row.snapshot.totals.params) if row.snapshot else "",
                row.snapshot.base.class_name if row.snapshot else "",
                row.state,
            ),
            Style.PLAIN if row.state == "accepted" else Style.YELLOW,
        )
        for row in rows
    ]
    return iter(table(LISTED, lines, look))


def _alike(lines: Iterable[PlacementLine]) -> list[list[PlacementLine]]:
    # Adapters that differ only in their layer share a row: their parameters are equal.
    groups: dict[tuple[object, ...], list[PlacementLine]] = {}
    for line in lines:
        groups.setdefault((without_layer(line.at), line.a, line.b, line.shard, line.by), []).append(line)
    return list(groups.values())


def _placements(lines: list[PlacementLine], look: Look) -> Line:
    first = lines[0]
    return Line(
        (
            folded(line.at for line in lines)[0][0],
            str(first.rank),
            look.shape(first.a),
            look.shape(first.b),
            f"{first.shard[0]}, {first.shard[1]}",
            # Without `by` the job had no targets: all linears that are not excluded were adapted.
            first.by or "all linears",
            count(sum(line.params for line in lines)),
        )
    )
