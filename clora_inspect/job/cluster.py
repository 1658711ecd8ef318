"""Which ranks of a cluster are distinct, and how many each of them stands for. Pure arithmetic.

megatron-core's default rank order is tp-cp-ep-dp-pp, the first axis fastest: the ranks of one
pipeline stage are consecutive. Within a stage every rank builds the same modules with the same
shapes (tensor-, expert- and context-parallel ranks hold different slices of equal size,
data-parallel ranks hold copies), so a stage is a class of ranks, and one rank of it is built to
know them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout

Range = tuple[int, int]
"""First and last, both included."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The ranks of one pipeline stage."""

    pp: int
    """Its number on the pipeline axis."""
    representative: int
    """The rank to build, numbered in the smallest world (`Layout.model_world`)."""
    members: tuple[Range, ...]
    """Global ranks of the whole job."""
    count: int


def stages(layout: Layout) -> list[Stage]:
    """The classes of ranks of a job, in pipeline order."""
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
