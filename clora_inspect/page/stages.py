"""The cluster as rows: one for each pipeline stage and range of expert-parallel ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.memory import ADAM_STATES, ADAPTER_WEIGHT, GRADIENT, weight_bytes
from clora_inspect.job.rank_memory import RankMemory

if TYPE_CHECKING:
    from clora_inspect.job.cluster import Range
    from clora_inspect.job.plan import JobPlan, RankClass


@dataclass(frozen=True, slots=True)
class StageRow:
    """Ranks that hold the same. Numbers are those of one rank."""

    pp: int
    ranks: str
    count: int
    ep: str
    etp: str
    experts: str
    layers: str
    adapters: int
    trainable: int
    base_params: int
    base_bytes: int
    adapter_bytes: int
    """Weights, gradients and Adam's states of the adapters."""
    peak_bytes: int | None
    share: int
    """Bytes in percent of the fullest rank's: of the peak, or of what is known without it."""


def stage_rows(plan: JobPlan) -> list[StageRow]:
    """Return the rows, in the order of the stages."""
    fullest = max((_bytes(plan, ranks) for ranks in plan.rank_classes), default=0)
    return [_row(plan, ranks, fullest) for ranks in plan.rank_classes]


def _row(plan: JobPlan, ranks: RankClass, fullest: int) -> StageRow:
    return StageRow(
        pp=ranks.pp,
        ranks=", ".join(_range(members) for members in ranks.members[:3]) + (", …" if len(ranks.members) > 3 else ""),
        count=ranks.count,
        ep=_range(ranks.ep),
        etp=_range(ranks.etp),
        experts=_experts(ranks),
        layers=fold(plan.layers_of(ranks)),
        adapters=sum(1 for _ in ranks.placements),
        trainable=ranks.trainable_params,
        base_params=ranks.base_params,
        base_bytes=weight_bytes(ranks.base_params, plan.model.weights_dtype),
        adapter_bytes=ranks.trainable_params * (ADAPTER_WEIGHT + GRADIENT + ADAM_STATES),
        peak_bytes=ranks.memory.peak_bytes if isinstance(ranks.memory, RankMemory) else None,
        share=round(100 * _bytes(plan, ranks) / fullest) if fullest else 0,
    )


def _bytes(plan: JobPlan, ranks: RankClass) -> int:
    if isinstance(ranks.memory, RankMemory):
        return ranks.memory.peak_bytes
    adapters = ranks.trainable_params * (ADAPTER_WEIGHT + GRADIENT + ADAM_STATES)
    return weight_bytes(ranks.base_params, plan.model.weights_dtype) + adapters


def _experts(ranks: RankClass) -> str:
    """Return `4 of 256` where the adapters of a stage know of experts."""
    facts = next((each.experts for each in ranks.placements if each.experts), None)
    return f"{count(facts.num_local_experts)} of {count(facts.num_experts)}" if facts else ""


def _range(each: Range) -> str:
    first, last = each
    return str(first) if first == last else f"{first}..{last}"
