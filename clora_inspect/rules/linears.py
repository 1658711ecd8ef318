"""`Linear`, one canonical linear of a planned job, adapted or not, with its place in the whole
model. Most rules read these instead of the plan's placements and skips. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.patterns import canonical_names
from clora.plan import Fate
from clora_inspect.job.module_path import folded, global_path
from clora_inspect.job.place import Place, place_of_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora.plan import Placement, Skip, Tower
    from clora_inspect.job.plan import JobPlan, RankClass
    from clora_inspect.job.towers import Towers

_REPLICATED = frozenset({"TELinear", "TopKRouter", "Linear"})
"""Base classes whose weight every tensor-parallel rank holds whole."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One canonical linear, or a fused one that is adapted as a whole, as in grouped experts."""

    path: str
    """Path of the module with its global layer number."""
    local_path: str
    """Path of the module on its rank, which targets are compared with."""
    part: str | None
    """Canonical part, such as `q`; None for a linear that is not fused or is adapted as a whole."""
    names: tuple[str, ...]
    """Local paths by which targets address it; several when it is fused and adapted as a whole."""
    place: Place
    tower: Tower
    ranks: RankClass
    chunk: int
    layer: int | None
    """Global number of its layer."""
    class_name: str
    params: int
    """Base parameters on one rank; each part of a fused linear counts an equal share."""
    weight_params: int
    """Elements of its weight in the whole model, each counted once; those of all experts."""
    copies: int
    """Number of modules of the whole model that this one stands for (sequential experts)."""
    placement: Placement | None
    """Its adapter; None when it has none."""

    @property
    def at(self) -> str:
        """Path and canonical part: `decoder.layers.3.mlp.linear_fc1[gate]`."""
        return f"{self.path}[{self.part}]" if self.part else self.path

    @property
    def last_name(self) -> str:
        """Last name of the path, such as `linear_fc1`."""
        return self.path.rsplit(".", 1)[-1]

    @property
    def shares_pair(self) -> bool:
        """True if one pair of A and B serves all experts of the layer."""
        return bool(self.placement and self.placement.experts and not self.placement.experts.per_expert)


def linears_of(plan: JobPlan, *, gated: bool) -> Iterator[Linear]:
    """Yield all linears of the whole model, stage by stage; in a stage the adapted ones first.

    Args:
        plan: the plan.
        gated: whether the MLPs of the language model have a gate. Another tower's config tells it.
    """
    towers = plan.towers
    # Fused linears with at least one adapted part; `_unadapted` must not count their size again.
    fused = {(ranks.pp, p.chunk, p.module) for ranks in plan.rank_classes for p in ranks.placements if p.part}
    for ranks in plan.rank_classes:
        for placement in ranks.placements:
            yield _adapted(placement, ranks, towers, gated=gated)
        for skip in ranks.skipped:
            if skip.reason in (Fate.UNMATCHED, Fate.EXCLUDED):
                sibling = (ranks.pp, skip.chunk, skip.module) in fused
                yield from _unadapted(skip, ranks, towers, gated=gated, has_sibling=sibling)


def places(linears: Iterable[Linear]) -> list[str]:
    """Fold paths over layers: `decoder.layers.{0..31}.mlp.linear_fc1[gate]`."""
    return [place for place, _ in folded(linear.at for linear in linears)]


def module_places(linears: Iterable[Linear]) -> list[str]:
    """Fold the paths of the modules over layers, without canonical parts."""
    return [place for place, _ in folded(dict.fromkeys(linear.path for linear in linears))]


def by_module(linears: Iterable[Linear]) -> list[list[Linear]]:
    """Group the canonical parts of each module."""
    # A local path stands once in each pipeline stage and chunk, for another layer every time.
    modules: dict[tuple[int, int, str], list[Linear]] = {}
    for linear in linears:
        modules.setdefault((linear.ranks.pp, linear.chunk, linear.local_path), []).append(linear)
    return list(modules.values())


def counted(number: int, what: str) -> str:
    """Write `1 adapter` or `32 adapters`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _adapted(placement: Placement, ranks: RankClass, towers: Towers, *, gated: bool) -> Linear:
    tower = towers.of(placement.module)
    return Linear(
        path=global_path(placement.module, placement.global_layer),
        local_path=placement.module,
        part=placement.part,
        names=names_of(placement.module, placement.part, gated=_is_gated(tower, default=gated)),
        place=place_of_module(placement.module, towers),
        tower=tower,
        ranks=ranks,
        chunk=placement.chunk,
        layer=placement.global_layer,
        class_name=placement.base_class,
        params=_base_params(placement),
        weight_params=_weight_params(placement),
        copies=placement.copies,
        placement=placement,
    )


def _is_gated(tower: Tower, *, default: bool) -> bool:
    return default if tower.gated is None else tower.gated


def _unadapted(skip: Skip, ranks: RankClass, towers: Towers, *, gated: bool, has_sibling: bool) -> Iterator[Linear]:
    tower = towers.of(skip.module)
    parts: tuple[str | None, ...] = (skip.part,)
    # The plan has one skip for a fused linear without any adapter: split it into its parts.
    if skip.part is None and skip.linears > 1:
        parts = tuple(FUSED[skip.module.rsplit(".", 1)[-1]])
    for part in parts:
        yield Linear(
            path=global_path(skip.module, skip.global_layer),
            local_path=skip.module,
            part=part,
            names=names_of(skip.module, part, gated=_is_gated(tower, default=gated)),
            place=place_of_module(skip.module, towers),
            tower=tower,
            ranks=ranks,
            chunk=skip.chunk,
            layer=skip.global_layer,
            class_name=skip.class_name,
            # The plan gives no size to a part that is unmatched beside adapted ones: the adapted
            # parts count the whole module.
            params=0 if has_sibling else skip.params // len(parts),
            weight_params=skip.weight_params // len(parts),
            copies=skip.copies,
            placement=None,
        )


def names_of(module: str, part: str | None, *, gated: bool) -> tuple[str, ...]:
    """Return the local paths by which targets address `part` of `module`.

    A fused linear that is adapted as a whole (`part` is None) has the names of all its parts.
    """
    names = canonical_names(module)
    if not names:
        return (module,)
    if part:
        return (names[part],)
    held = ("up",) if module.endswith("linear_fc1") and not gated else tuple(names)
    return tuple(names[one] for one in held)


def _weight_params(placement: Placement) -> int:
    grouped = placement.experts is not None and ".local_experts." not in placement.module
    experts = placement.experts.num_experts if grouped and placement.experts else placement.copies
    return placement.b_global_shape[-2] * placement.a_global_shape[-1] * experts


def _base_params(placement: Placement) -> int:
    """Compute from the adapter's shapes how many base parameters one rank holds beside it."""
    rows, columns = placement.b_global_shape[-2], placement.a_global_shape[-1]
    if placement.base_class in _REPLICATED:
        return rows * columns
    # B is split over as many ranks as the weight.
    shrunk = prod(placement.b_global_shape[-2:]) // prod(placement.b_shape[-2:])
    grouped = placement.experts is not None and placement.copies == 1 and ".local_experts." not in placement.module
    return rows * columns // shrunk * (placement.experts.num_local_experts if grouped and placement.experts else 1)
