"""Compute the coordinates of a rank on the mesh, and the ranks that hold the same slice of an
adapter.

megatron-core's default order of axes is tp-cp-ep-dp-pp, the first changing fastest. Within a
pipeline stage this means tp, cp, dp for the dense part of a model, and etp, ep and the expert
data-parallel axis for routed experts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from clora_inspect.job.layer_ranges import runs_of

if TYPE_CHECKING:
    from clora.plan import Placement
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.plan import JobPlan


@dataclass(frozen=True, slots=True)
class Coordinates:
    """The number of a rank on each mesh axis; `edp` is the data-parallel axis of routed experts."""

    rank: int
    pp: int
    tp: int
    cp: int
    dp: int
    ep: int
    etp: int
    edp: int

    def described(self, layout: Layout) -> str:
        """Return the axes that are wider than 1, such as `pp1 tp3 dp0`; empty for no such axis."""
        # `rank` and `edp` have no size and are left out: both follow from the other numbers.
        sizes = layout.sizes() | {"dp": layout.dp}
        return " ".join(f"{axis}{number}" for axis, number in asdict(self).items() if sizes.get(axis, 1) > 1)


def coordinates(layout: Layout, rank: int) -> Coordinates:
    """Return the coordinates of a global rank."""
    pp, place = divmod(rank, layout.world // layout.pp)
    dense, tp = divmod(place, layout.tp)
    dp, cp = divmod(dense, layout.cp)
    expert, etp = divmod(place, layout.expert_tp)
    edp, ep = divmod(expert, layout.ep)
    return Coordinates(rank=rank, pp=pp, tp=tp, cp=cp, dp=dp, etp=etp, ep=ep, edp=edp)


def class_of(plan: JobPlan, rank: int) -> int:
    """Return the index of the rank class that a global rank belongs to."""
    return next(
        number
        for number, rank_class in enumerate(plan.rank_classes)
        if any(first <= rank <= last for first, last in rank_class.members)
    )


def same_slice(layout: Layout, placement: Placement, axes: tuple[str | None, ...], rank: int) -> list[int]:
    """Return the ranks that hold the same slice of a factor as `rank`, with `rank` itself.

    Training must keep the copies of one slice equal.

    Args:
        layout: the layout.
        placement: the adapter.
        axes: the mesh axis of each dim of the factor: `placement.a_axes` or `placement.b_axes`.
        rank: a rank that holds the adapter.
    """
    width = layout.world // layout.pp
    here = coordinates(layout, rank)
    names = [axis for axis in axes if axis is not None]
    # If each expert has a pair, two ranks of ep hold pairs of different experts, not copies. One
    # pair that all experts share is the same on every rank of ep.
    if placement.experts is not None and (placement.experts.per_expert or placement.copies > 1):
        names.append("ep")
    first = here.pp * width
    return [
        other
        for other in range(first, first + width)
        if all(getattr(coordinates(layout, other), axis) == getattr(here, axis) for axis in names)
    ]


def runs(ranks: list[int]) -> str:
    """Write ranks as `0-3, 8-11`, and many with gaps as `0, 4, 8 … 60 (16 ranks)`."""
    # Ranks of one slice are evenly spaced: three show the step, the last shows where they end.
    if len(ranks) > 6 and ranks[1] - ranks[0] > 1:
        return f"{ranks[0]}, {ranks[1]}, {ranks[2]} … {ranks[-1]} ({len(ranks)} ranks)"
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs_of(ranks))
