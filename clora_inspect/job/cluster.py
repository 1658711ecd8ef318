"""Divide the ranks of a cluster into pipeline stages. Pure arithmetic.

megatron-core's default rank order is tp-cp-ep-dp-pp with the first axis fastest, so the ranks of a
stage are consecutive. All of them build the same modules with the same shapes: tensor-, expert- and
context-parallel ranks hold slices of equal size, data-parallel ranks hold copies. So the ranks of a
stage are one rank class, and building one of them is enough to know them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout

Range = tuple[int, int]
"""First and last number, both included."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The ranks of one pipeline stage."""

    pp: int
    """Number of the stage, from 0."""
    representative: int
    """The rank to build, numbered in the smallest world that has all stages (`model_world`)."""
    members: tuple[Range, ...]
    """Ranges of ranks, numbered in the whole job."""
    count: int
    """Number of ranks in the whole job."""


def stages(layout: Layout) -> list[Stage]:
    """Return the stages of a job in pipeline order."""
    # The rank to build is numbered in the smallest world: a wider data-parallel axis only repeats
    # ranks.
    width, model_width = layout.world // layout.pp, layout.model_world // layout.pp
    return [
        Stage(
            pp=stage,
            representative=stage * model_width,
            members=((stage * width, (stage + 1) * width - 1),),
            count=width,
        )
        for stage in range(layout.pp)
    ]
