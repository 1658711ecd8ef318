"""Where a rank stands on the mesh, and who holds the same slice of an adapter. Pure arithmetic.

megatron-core's default order is tp-cp-ep-dp-pp, the first axis fastest: for the dense part of a
model tp, cp, dp within a pipeline stage, for routed experts etp, ep, expert-dp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.job.layer_ranges import runs_of

if TYPE_CHECKING:
    from clora.plan import Placement
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.plan import JobPlan


@dataclass(frozen=True, slots=True)
class Coordinates:
    """One rank on every axis."""

    rank: int
    pp: int
    tp: int
    cp: int
    dp: int
    etp: int
    ep: int
    edp: int

    def described(self, layout: Layout) -> str:
        """`pp1 tp3 dp0`: the axes that are wider than 1; empty when there is none."""
        sizes = layout.sizes() | {"dp": layout.dp}
        shown = ("pp", "tp", "cp", "dp", "ep", "etp")
        return " ".join(f"{axis}{getattr(self, axis)}" for axis in shown if sizes[axis] > 1)


def coordinates(layout: Layout, rank: int) -> Coordinates:
    """The place of global rank `rank`."""
    pp, place = divmod(rank, layout.world // layout.pp)
    dense, tp = divmod(place, layout.tp)
    dp, cp = divmod(dense, layout.cp)
    expert, etp = divmod(place, layout.etp)
    edp, ep = divmod(expert, layout.ep)
    return Coordinates(rank=rank, pp=pp, tp=tp, cp=cp, dp=dp, etp=etp, ep=ep, edp=edp)


def class_of(plan: JobPlan, rank: int) -> int:
    """The number of the rank class that holds `rank`."""
    return next(
        number
        for number, rank_class in enumerate(plan.rank_classes)
        if any(first <= rank <= last for first, last in rank_class.members)
    )


def same_slice(layout: Layout, placement: Placement, axes: tuple[str | None, ...], rank: int) -> list[int]:
    """The ranks that hold the same slice of A (or B) as `rank` does, `rank` among them: their
    copies must stay equal.

    Args:
        layout: the layout.
        placement: the adapter.
        axes: mesh axis of every dim of the factor, `placement.a_axes` or `b_axes`.
        rank: a rank that holds the adapter.
    """
    width = layout.world // layout.pp
    here = coordinates(layout, rank)
    is_expert = placement.experts is not None
    names = [axis for axis in axes if axis is not None]
    if is_expert and ((placement.experts is not None and placement.experts.per_expert) or placement.copies > 1):
        names.append("ep")
    first = here.pp * width
    return [
        other
        for other in range(first, first + width)
        if all(getattr(coordinates(layout, other), axis) == getattr(here, axis) for axis in names)
    ]


def runs(ranks: list[int]) -> str:
    """`0-3, 8-11`; every fourth is `0, 4, 8 … 60 (16 ranks)` where there are many."""
    if len(ranks) > 6 and ranks[1] - ranks[0] > 1:
        return f"{ranks[0]}, {ranks[1]}, {ranks[2]} … {ranks[-1]} ({len(ranks)} ranks)"
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs_of(ranks))
