"""Tell what is wrong with a saved plan that has all fields: numbers, paths and shapes that no plan
can have. Views rely on what is checked here. Pure.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from clora.errors import short
from clora.fused import FUSED
from clora.limits import LARGEST_DIM, LARGEST_LAYERS, LARGEST_NUMBER, LARGEST_PATH, LARGEST_SIZE
from clora_inspect.job.path_damage import damage_of_path, damage_of_towers, has_long_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Placement, Skip
    from clora_inspect.job.cluster import Range
    from clora_inspect.job.plan import JobPlan, RankClass

_FACTORS = ("a_shape", "b_shape", "a_global_shape", "b_global_shape", "a_axes", "b_axes")
_AXES = (None, "tp", "etp", "ep")


def damage_of_plan(plan: JobPlan) -> str | None:
    """Return the first thing that is wrong with `plan`, with its place; None when all is right."""
    return next(_damage(plan), None)


def _damage(plan: JobPlan) -> Iterator[str]:
    yield from _damage_of_lora(plan)
    yield from _damage_of_counts(plan)
    for what in damage_of_towers(plan.model.towers or ()):
        yield f"model.towers{what}"
    for number, finding in enumerate(plan.findings):
        if finding.where and (len(finding.where) > 10 * LARGEST_PATH or has_long_number(finding.where)):
            yield f"findings[{number}].where is no place in a model"
    if not plan.rank_classes:
        yield "rank_classes is empty, and every job has a rank"
    for number, ranks in enumerate(plan.rank_classes):
        for what in _damage_of_ranks(ranks, plan):
            yield f"rank_classes[{number}].{what}"


def _damage_of_counts(plan: JobPlan) -> Iterator[str]:
    counts = {f"totals.{name}": getattr(plan.totals, name) for name in plan.totals.__struct_fields__}
    counts |= {"model.num_layers": plan.model.num_layers or 0}
    counts |= {f"model.modules.{name}": count for name, count in (plan.model.modules or {}).items()}
    counts |= {f"matches.{target[:60]}": count for target, count in plan.matches.items()}
    for name, count in counts.items():
        if not _is_count(count):
            yield f"{name} is {short(count)}, which is no count"


def _damage_of_lora(plan: JobPlan) -> Iterator[str]:
    lora = plan.lora
    if not 1 <= lora.dim <= LARGEST_DIM:
        yield f"lora.dim is {short(lora.dim)}, and a rank is a number from 1 to {LARGEST_DIM:,}"
    if not _is_positive(lora.alpha):
        yield f"lora.alpha is {short(lora.alpha)}, which is no positive number"
    if not 0 <= lora.dropout < 1:
        yield f"lora.dropout is {short(lora.dropout)}, which is no probability below 1"


def _damage_of_ranks(ranks: RankClass, plan: JobPlan) -> Iterator[str]:
    yield from _damage_of_ranges(ranks, plan)
    yield from _damage_of_optional_counts(ranks)
    for name in ("base_params", "trainable_params", "wrapped_modules"):
        if not _is_count(getattr(ranks, name)):
            yield f"{name} is {short(getattr(ranks, name))}, which is no count"
    known = {(row.chunk, row.module) for rows in (ranks.placements, ranks.skipped) for row in rows}
    # Thousands of placements are alike in everything but their path.
    right: set[object] = set()
    for number, placement in enumerate(ranks.placements):
        factors = (
            *(getattr(placement, name) for name in _FACTORS),
            placement.dim,
            placement.alpha,
            placement.experts,
        )
        new = () if factors in right else _damage_of_factors(placement)
        for what in chain(_damage_of_row(placement, known, plan.layout.vpp), new):
            yield f"placements[{number}].{what}"
        right.add(factors)
    for number, skip in enumerate(ranks.skipped):
        for what in _damage_of_row(skip, known, plan.layout.vpp):
            yield f"skipped[{number}].{what}"
        several = skip.linears > 1 and skip.part is None
        if not _is_count(skip.linears) or (several and _last(skip.module) not in FUSED):
            yield f"skipped[{number}].linears is {short(skip.linears)}, and {skip.module} is one linear or none"


def _damage_of_optional_counts(ranks: RankClass) -> Iterator[str]:
    counts = {f"matches.{target[:60]}": count for target, count in (ranks.matches or {}).items()}
    for name, count in {"model_params": ranks.model_params or 0, **counts}.items():
        if not _is_count(count):
            yield f"{name} is {short(count)}, which is no count"


def _damage_of_ranges(ranks: RankClass, plan: JobPlan) -> Iterator[str]:
    layout = plan.layout
    if not ranks.members:
        yield "members is empty"
    for first, last in ranks.members:
        if not 0 <= first <= last < layout.world:
            yield f"members has ranks {short(first)} to {short(last)}, and the world has {layout.world:,}"
    ranges: dict[str, tuple[Range, int]] = {
        "pp": ((ranks.pp, ranks.pp), layout.pp),
        "vpp": (ranks.vpp, layout.vpp),
        "ep": (ranks.ep, layout.ep),
        "etp": (ranks.etp, layout.sizes()["etp"]),
    }
    for name, ((first, last), size) in ranges.items():
        if not 0 <= first <= last < size:
            yield f"{name} is {short(first)} to {short(last)}, and the layout has {name} = {size:,}"
    if not 1 <= ranks.count <= layout.world:
        yield f"count is {short(ranks.count)}, and the world has {layout.world:,} ranks"


def _damage_of_row(row: Placement | Skip, known: set[tuple[int, str]], chunks: int) -> Iterator[str]:
    damage = damage_of_path(row.module)
    if damage:
        yield f"module {damage}"
        return
    if not 0 <= row.chunk < chunks:
        yield f"chunk is {short(row.chunk)}, and each rank has {chunks:,} chunks"
    if row.global_layer is not None and not 0 <= row.global_layer < 2 * LARGEST_LAYERS:
        yield f"global_layer is {short(row.global_layer)}, and no model has as many layers"
    if row.part is not None and row.part not in FUSED.get(_last(row.module), ()):
        yield f"part is {short(row.part)}, which is no part of {row.module}"
    parent = row.module.rpartition(".")[0]
    if parent and (row.chunk, parent) not in known:
        yield f"module is {row.module}, and the plan has no module {parent}"
    if not _is_count(row.params):
        yield f"params is {short(row.params)}, which is no count"
    if not 1 <= row.copies <= LARGEST_SIZE:
        yield f"copies is {short(row.copies)}, which is no number of modules"


def _damage_of_factors(placement: Placement) -> Iterator[str]:
    for name in ("a", "b"):
        local, whole, axes = (getattr(placement, f"{name}_{what}") for what in ("shape", "global_shape", "axes"))
        damage = _damage_of_factor(local, whole, axes)
        if damage is not None:
            yield f"{name}_shape {damage}"
            return
    if len(placement.a_shape) != len(placement.b_shape):
        yield "a_shape and b_shape have different numbers of dims"
    elif placement.a_global_shape[-2] != placement.b_global_shape[-1]:
        yield "a_global_shape and b_global_shape have different ranks"
    if not 1 <= placement.dim <= LARGEST_DIM:
        yield f"dim is {short(placement.dim)}, which is no rank"
    if not _is_positive(placement.alpha):
        yield f"alpha is {short(placement.alpha)}, which is no positive number"
    experts = placement.experts
    if experts and not all(
        1 <= size <= LARGEST_SIZE for size in (experts.num_experts, experts.num_local_experts, experts.ep, experts.etp)
    ):
        yield "experts has a number below 1, or one that no model has"


def _damage_of_factor(local: tuple[int, ...], whole: tuple[int, ...], axes: tuple[str | None, ...]) -> str | None:
    if not len(local) == len(whole) == len(axes) in (2, 3):
        return f"has {len(local)} dims, the global shape {len(whole)} and the axes {len(axes)}: a factor has 2 or 3"
    if not all(1 <= size <= LARGEST_SIZE for size in (*local, *whole)):
        return f"has a dim below 1 or above {LARGEST_SIZE:,}"
    if any(size % part for size, part in zip(whole, local, strict=True)):
        return "does not divide the global shape"
    if not all(axis in _AXES for axis in axes):
        return "is split over an axis that is none of tp, etp and ep"
    return None


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _is_count(value: int) -> bool:
    return 0 <= value < LARGEST_NUMBER


def _is_positive(value: float) -> bool:
    # Not `isfinite`: an integer may be too large for a float.
    return 0 < value < LARGEST_NUMBER
