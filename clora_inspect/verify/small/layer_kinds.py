"""Sort the layers of a model into kinds, and find the shortest stack of layers with all kinds.
Pure.

Two layers are of one kind when their plans agree (relative paths, classes, adapted parts, dims) and
so do their entries in the model's per-layer lists, such as attention windows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from clora.plan import Placement, Plan, Skip, is_prediction
from clora_inspect.job.module_path import global_path
from clora_inspect.job.plan import JobPlan, RankClass

LONGEST_RUN = 2
"""Number of equal layers in a row that are kept. Two show what a layer hands to another of its
kind.
"""

LayerKind = Hashable


def kinds_of(plan: JobPlan, per_layer: Sequence[Sequence[Any]], blocks: int = 1) -> dict[int, LayerKind]:
    """Return the kind of every decoder layer of the job, by its number in the whole model.

    Args:
        plan: plan of the whole job.
        per_layer: the model's lists with one entry for each layer.
        blocks: layers of megatron-core that each of them is built as.
    """
    entries: dict[int, set[tuple[str, ...]]] = {}
    for rank_class in plan.rank_classes:
        for entry in entries_of(rank_class):
            # Prediction layers ("mtp.") have numbers of their own, and are always kept.
            if entry.global_layer is not None and not is_prediction(entry.module):
                entries.setdefault(entry.global_layer // blocks, set()).add(_without_number(entry))
    return {
        layer: (frozenset(own), *(repr(values[layer]) for values in per_layer if layer < len(values)))
        for layer, own in sorted(entries.items())
    }


def entries_of(plan: Plan | RankClass) -> list[Placement | Skip]:
    """Return everything that a plan says of modules: placements, and those that are not adapted."""
    return [*plan.placements, *plan.skipped]


def _without_number(entry: Placement | Skip) -> tuple[str, ...]:
    """Describe an entry without its layer's number, so that layers of one kind compare equal."""
    relative = global_path(entry.module, entry.global_layer).partition(f"layers.{entry.global_layer}")[2]
    if isinstance(entry, Placement):
        return relative, entry.part or "", entry.base_class, entry.wrapper, str(entry.dim)
    return relative, entry.part or "", entry.class_name, str(entry.reason)


def stage_layers(plan: JobPlan, blocks: int = 1) -> list[list[int]]:
    """Return the layers of every virtual pipeline stage of the job, in the order in which tokens
    pass them. `blocks` is as in `kinds_of`.
    """
    by_stage: dict[tuple[int, int], set[int]] = {}
    for rank_class in plan.rank_classes:
        for chunk in range(rank_class.vpp[0], rank_class.vpp[1] + 1):
            by_stage[chunk, rank_class.pp] = {
                entry.global_layer // blocks
                for entry in entries_of(rank_class)
                if entry.chunk == chunk and entry.global_layer is not None and not is_prediction(entry.module)
            }
    return [sorted(by_stage[stage]) for stage in sorted(by_stage)]


def built_as(layers: Iterable[int], blocks: int) -> tuple[int, ...]:
    """Return megatron-core's numbers of layers that are each built as `blocks` of them."""
    return tuple(blocks * layer + block for layer in layers for block in range(blocks))


def shortest(layers: Sequence[int], kinds: dict[int, LayerKind]) -> list[int]:
    """Return the first of `layers`, with runs of equal ones cut short, until every kind and every
    change from one kind to another has occurred.
    """
    kept = list(_short_runs(layers, kinds))
    wanted = set(_kinds_and_changes([kinds[layer] for layer in kept]))
    for size in range(1, len(kept) + 1):
        if set(_kinds_and_changes([kinds[layer] for layer in kept[:size]])) == wanted:
            return kept[:size]
    return []


def _short_runs(layers: Sequence[int], kinds: dict[int, LayerKind]) -> Iterable[int]:
    # A kind is a tuple, so None equals no layer's kind.
    run = 0
    before: LayerKind = None
    for layer in layers:
        run = run + 1 if kinds[layer] == before else 1
        before = kinds[layer]
        if run <= LONGEST_RUN:
            yield layer


def _kinds_and_changes(kinds: Sequence[LayerKind]) -> Iterable[tuple[LayerKind, ...]]:
    yield from ((kind,) for kind in kinds)
    yield from pairwise(kinds)
