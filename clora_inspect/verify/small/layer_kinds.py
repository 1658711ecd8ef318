"""Which layers of a model are alike, and the shortest stack of layers that shows them all. Pure.

The kind of a layer is what its plan says of it (relative paths, classes, adapted parts, ranks) and
its entries in the model's lists with one entry per layer (attention windows).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from clora.plan import Placement, Plan, Skip
from clora_inspect.job.module_path import global_path
from clora_inspect.job.plan import JobPlan, RankClass

LONGEST_RUN = 2
"""Equal layers in a row that are kept: two show what one layer hands to its like."""

Kind = Hashable


def kinds_of(plan: JobPlan, per_layer: Sequence[Sequence[Any]]) -> dict[int, Kind]:
    """The kind of every decoder layer of the job, by its number in the whole model.

    Args:
        plan: of the whole job.
        per_layer: lists with one entry for every layer.
    """
    said: dict[int, set[tuple[str, ...]]] = {}
    for ranks in plan.rank_classes:
        for entry in entries_of(ranks):
            if entry.global_layer is None or entry.module.startswith("mtp."):
                continue
            said.setdefault(entry.global_layer, set()).add(_words(entry))
    return {
        layer: (frozenset(words), *(repr(values[layer]) for values in per_layer if layer < len(values)))
        for layer, words in sorted(said.items())
    }


def entries_of(plan: Plan | RankClass) -> list[Placement | Skip]:
    """Everything that a plan says of modules: the placements, and what is left out."""
    return [*plan.placements, *plan.skipped]


def _words(entry: Placement | Skip) -> tuple[str, ...]:
    relative = global_path(entry.module, entry.global_layer).partition(f"layers.{entry.global_layer}")[2]
    if isinstance(entry, Placement):
        return relative, entry.part or "", entry.base_class, entry.wrapper, str(entry.dim)
    return relative, entry.part or "", entry.class_name, str(entry.reason)


def stage_layers(plan: JobPlan) -> list[list[int]]:
    """The layers of every virtual pipeline stage of the job, in the order in which tokens pass
    them.
    """
    by_stage: dict[tuple[int, int], set[int]] = {}
    for ranks in plan.rank_classes:
        for chunk in range(ranks.vpp[0], ranks.vpp[1] + 1):
            by_stage[chunk, ranks.pp] = {
                entry.global_layer
                for entry in entries_of(ranks)
                if entry.chunk == chunk and entry.global_layer is not None and not entry.module.startswith("mtp.")
            }
    return [sorted(by_stage[stage]) for stage in sorted(by_stage)]


def shortest(layers: Sequence[int], kinds: dict[int, Kind]) -> list[int]:
    """The first of `layers`, runs of equal ones cut short, up to where every kind and every change
    from one kind to another has been seen.
    """
    kept = list(_short_runs(layers, kinds))
    wanted = set(_seen([kinds[layer] for layer in kept]))
    length = next(
        (size for size in range(1, len(kept) + 1) if set(_seen([kinds[layer] for layer in kept[:size]])) == wanted), 0
    )
    return kept[:length]


def _short_runs(layers: Sequence[int], kinds: dict[int, Kind]) -> Iterable[int]:
    run = 0
    before: Kind = None
    for layer in layers:
        run = run + 1 if kinds[layer] == before else 1
        before = kinds[layer]
        if run <= LONGEST_RUN:
            yield layer


def _seen(kinds: Sequence[Kind]) -> Iterable[tuple[Kind, ...]]:
    yield from ((kind,) for kind in kinds)
    yield from pairwise(kinds)
