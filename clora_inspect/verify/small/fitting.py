"""Fit the job's layout to a few ranks: choose the axes to keep, and say in the report which are not
shown. Pure arithmetic.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from clora_inspect.job.layout import AXES, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDER = ("tp", "ep", "pp", "etp", "cp")
"""Axes in the order in which they are kept where not all fit."""


def fitted(job: Layout, ranks: int) -> tuple[Layout, tuple[str, ...]]:
    """Return the layout of `ranks` ranks that is nearest to the job's, and a sentence for each axis
    that it cannot show.

    Context parallelism is never shown: the proofs give every rank whole sequences.
    """
    best = max(_candidates(job, ranks), key=_preference)
    return best, tuple(_not_shown(job, best, ranks))


def larger_runs(job: Layout, most_ranks: int) -> list[tuple[int, Layout]]:
    """Return the numbers of ranks that show more of the job's layout than fewer ranks do, each
    with the layout that they show. Empty if one rank shows all that can be shown.
    """
    runs: list[tuple[int, Layout]] = []
    shown = Layout()
    for ranks in range(2, min(most_ranks, job.model_world) + 1):
        # Each axis keeps a divisor of its size, and so does their product.
        if job.model_world % ranks == 0:
            layout, _ = fitted(job, ranks)
            if _preference(layout) > _preference(shown):
                runs.append((ranks, layout))
                shown = layout
    return runs


def _candidates(job: Layout, ranks: int) -> Iterator[Layout]:
    wanted = job.sizes()
    # Only sizes that divide the job's, so that whatever the job's size divides stays divisible.
    sizes = [
        [1] if axis == "cp" else [size for size in range(1, ranks + 1) if wanted[axis] % size == 0] for axis in ORDER
    ]
    for chosen in product(*sizes):
        axes = dict(zip(ORDER, chosen, strict=True))
        # Sequence parallelism needs tp; with it, the job's own setting is kept.
        sp = job.sequence_parallel if axes["tp"] > 1 else None
        layout = Layout(**axes, vpp=job.vpp if axes["pp"] > 1 else 1, sp=sp)
        if ranks % layout.model_world == 0:
            yield layout


def _preference(layout: Layout) -> tuple[int, int, list[int]]:
    """Prefer layouts that keep more axes, then more ranks, then larger sizes of the first axes."""
    sizes = [layout.sizes()[axis] for axis in ORDER]
    return sum(size > 1 for size in sizes), layout.model_world, sizes


def _not_shown(job: Layout, run: Layout, ranks: int) -> Iterator[str]:
    for axis in AXES:
        wanted, kept = job.sizes()[axis], run.sizes()[axis]
        if wanted > 1 and kept == 1:
            why = (
                "the proofs give every rank whole sequences"
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
