"""The adapters of a whole job as table rows: those that differ only in their layer share a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import PatternSet, canonical_names, is_bare
from clora.plan import is_prediction
from clora_inspect.job.place import Place, place_in_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clora.plan import ExpertFacts, Placement, Tower
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.job.towers import Towers


@dataclass(frozen=True, slots=True)
class Section:
    """A group of rows under one title."""

    tower: Tower
    in_mtp: bool
    in_decoder: bool
    place: Place
    experts: ExpertFacts | None

    def order(self, towers: Towers) -> tuple[int, bool, int]:
        """Return the sort key: the language model before other towers, the decoder before
        multi-token prediction, then the order in a layer.
        """
        return towers.rank_of(self.tower), self.in_mtp, list(Place).index(self.place)


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """Adapters of one target and shape, in all layers and on all ranks."""

    name: str
    """The bare target that selects them, such as `linear_q`. An adapter that stands beside a whole
    fused linear has the names of all its parts, `linear_fc1_{gate,up}`.
    """
    chosen_by: str | None
    """The string of `target_modules` that selects them; None where it is a bare target."""
    inside: str | None
    """The fused linear that they adapt a part of; None where they adapt a whole linear."""
    dim: int
    """The LoRA rank."""
    in_features: int
    out_features: int
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    layers: tuple[int, ...]
    placements: int
    """Number of adapters in the whole model."""
    params: int
    """Number of their parameters in the whole model."""


def sections(
    plan: JobPlan, *, keep: Callable[[Placement], bool] = lambda _: True, by_layer: bool = False
) -> list[tuple[Section, list[PlacementRow]]]:
    """Return the adapters of `plan` as rows, and the rows grouped by their place in a layer.

    Args:
        plan: the plan.
        keep: decides which adapters are listed.
        by_layer: whether each layer has rows of its own, in the order of layers. Otherwise rows
            stand in the order of the targets that select them.
    """
    alike: dict[Section, dict[tuple[object, ...], list[Placement]]] = {}
    for rank_class in plan.rank_classes:
        for placement in filter(keep, rank_class.placements):
            rows = alike.setdefault(_section(placement, plan.towers), {})
            kind = (placement.global_layer if by_layer else None, *_kind(placement, plan))
            rows.setdefault(kind, []).append(placement)
    ordered = sorted(alike.items(), key=lambda item: item[0].order(plan.towers))
    # `matches` has the targets in the order in which the user wrote them.
    targets = {target: number for number, target in enumerate(plan.matches)}
    return [
        (
            section,
            [
                _row(placements, plan)
                for placements in sorted(rows.values(), key=lambda row: _order(row[0], targets, by_layer=by_layer))
            ],
        )
        for section, rows in ordered
    ]


def _order(placement: Placement, targets: dict[str, int], *, by_layer: bool) -> tuple[int, int]:
    # All linears without exclusion have the target None: they keep the order of the model.
    layer = placement.global_layer if by_layer and placement.global_layer is not None else -1
    return layer, targets.get(placement.target or "", 0)


def _section(placement: Placement, towers: Towers) -> Section:
    return Section(
        tower=towers.of(placement.module),
        in_mtp=is_prediction(placement.module),
        in_decoder=towers.in_decoder(placement.module),
        place=place_in_layer(placement.module),
        experts=placement.experts,
    )


def _kind(placement: Placement, plan: JobPlan) -> tuple[object, ...]:
    """Return the facts that all adapters of a row have in common."""
    return (
        _name(placement, plan),
        placement.target,
        placement.a_global_shape,
        placement.b_global_shape,
        placement.a_shape,
        placement.b_shape,
    )


def _row(placements: list[Placement], plan: JobPlan) -> PlacementRow:
    first = placements[0]
    name = _name(first, plan)
    simple = first.target is None or is_bare(first.target)
    return PlacementRow(
        name=name,
        chosen_by=None if simple else first.target,
        inside=last_name(first.module) if first.part else None,
        dim=first.dim,
        in_features=first.a_global_shape[-1],
        out_features=first.b_global_shape[-2],
        a_shape=first.a_shape,
        b_shape=first.b_shape,
        layers=tuple(sorted({p.global_layer for p in placements if p.global_layer is not None})),
        # An entry for a sequential expert stands for one such module on each ep rank.
        placements=sum(p.copies for p in placements),
        params=sum(p.model_params for p in placements),
    )


def _name(placement: Placement, plan: JobPlan) -> str:
    """Return the bare target that selects an adapter, or the name of its whole fused linear."""
    last = last_name(placement.module)
    if placement.part:
        return FUSED[last][placement.part]
    parts = _chosen_parts(placement.module, plan)
    return braced(parts) if parts else last


def _chosen_parts(module: str, plan: JobPlan) -> list[str]:
    """Return the bare targets that select the parts of a fused linear with one adapter.

    Empty for a linear that is not fused, and for one that a pattern selects: the pattern is shown
    in its own column then.
    """
    names = canonical_names(module)
    if not names:
        return []
    targets = _targets_of(tuple(plan.matches))
    if plan.towers.of(module).gated is False and last_name(module) == "linear_fc1":
        names = {part: path for part, path in names.items() if part != "gate"}
    hit = [targets.matching(path) for path in names.values()]
    if any(not is_bare(target) for found in hit for target in found):
        return []
    return [found[0] for found in hit if found]


@lru_cache(maxsize=4)
def _targets_of(targets: tuple[str, ...]) -> PatternSet:
    return PatternSet(targets)


def braced(names: Iterable[str]) -> str:
    """Write `linear_fc1_gate` and `linear_fc1_up` as `linear_fc1_{gate,up}`."""
    names = list(names)
    if len(names) == 1:
        return names[0]
    # The names of one fused linear differ only in their last word.
    stem = names[0].rpartition("_")[0] + "_"
    return f"{stem}{{{','.join(name.removeprefix(stem) for name in names)}}}"


def last_name(module: str) -> str:
    return module.rsplit(".", 1)[-1]
