"""The job's layout on a few ranks: which axes are kept, and what is said of the others. Pure
arithmetic.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from clora_inspect.job.layout import AXES, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDER = ("tp", "ep", "pp", "etp", "cp")
"""What is kept first where not everything fits."""


def fitted(job: Layout, ranks: int, *, keeps_cp: bool = False) -> tuple[Layout, tuple[str, ...]]:
    """The layout of `ranks` ranks that is nearest to the job's, and a sentence for everything that
    it lacks.

    An axis is kept when it still has at least two ranks. Context parallelism is not kept: on a CPU
    there is no attention for it.
    """
    best = max(_candidates(job, ranks, keeps_cp=keeps_cp), key=_rank_of)
    return best, tuple(_dropped(job, best, ranks))


def _candidates(job: Layout, ranks: int, *, keeps_cp: bool) -> Iterator[Layout]:
    sizes = {
        axis: [1]
        if axis == "cp" and not keeps_cp
        else [size for size in range(1, getattr(job, axis) + 1) if getattr(job, axis) % size == 0 and size <= ranks]
        for axis in ORDER
    }
    for chosen in product(*sizes.values()):
        axes = dict(zip(sizes, chosen, strict=True))
        if axes["tp"] > 1 or not job.sequence_parallel:
            sp: bool | None = job.sequence_parallel if axes["tp"] > 1 else None
        else:
            sp = None
        layout = Layout(**axes, vpp=job.vpp if axes["pp"] > 1 else 1, sp=sp)
        if ranks % layout.model_world == 0:
            yield layout


def _rank_of(layout: Layout) -> tuple[int, int, list[int]]:
    sizes = [getattr(layout, axis) for axis in ORDER]
    return sum(size > 1 for size in sizes), layout.model_world, sizes


def _dropped(job: Layout, run: Layout, ranks: int) -> Iterator[str]:
    for axis in AXES:
        wanted, kept = getattr(job, axis), getattr(run, axis)
        if wanted > 1 and kept == 1:
            why = (
                "context parallelism needs a GPU's attention"
                if axis == "cp"
                else f"{ranks} rank{'s' if ranks > 1 else ''} cannot show it as well"
            )
            yield f"{axis}{wanted}: not shown, {why}."
        elif kept < wanted:
            yield f"{axis}{wanted} is shown as {axis}{kept}."
    if job.sequence_parallel and not run.sequence_parallel:
        yield "sp: not shown without tp."
    if ranks > run.model_world:
        yield f"{ranks // run.model_world} copies of the layout are data-parallel ranks."
