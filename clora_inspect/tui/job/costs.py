"""`Costs`: what the ranks of a plan need and do, as a child process has counted it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from clora.errors import CloraError
from clora_inspect.job.cluster import Range
from clora_inspect.job.flops import Flops
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.traffic import Traffic
from clora_inspect.job.workload import Workload

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


class RankCosts(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a plan's rank class that are about costs, and those that tell the class."""

    members: tuple[Range, ...]
    base_params: int
    trainable_params: int
    memory: RankMemory
    traffic: tuple[Traffic, ...]
    flops: Flops


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of a plan. A plan with thousands of modules has a few dozen of these."""

    workload: Workload
    rank_classes: tuple[RankCosts, ...]


def decode_costs(data: bytes) -> Costs:
    """Read the costs in the JSON of a plan, and nothing else of it.

    Raises:
        CloraError: it has none.
    """
    try:
        return msgspec.json.decode(data, type=Costs)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CloraError(f"The plan has no memory that can be read: {error}.") from None


def with_costs(plan: JobPlan, costs: Costs) -> JobPlan:
    """Return `plan` with its costs.

    Raises:
        CloraError: they are those of another plan, because the model has changed since.
    """
    planned = [(each.members, each.base_params, each.trainable_params) for each in plan.rank_classes]
    counted = [(each.members, each.base_params, each.trainable_params) for each in costs.rank_classes]
    if planned != counted:
        raise CloraError(
            "The model is another now than when this plan was made, so its memory is not shown. "
            "Open the job again, to plan it as it is."
        )
    return msgspec.structs.replace(
        plan,
        workload=costs.workload,
        rank_classes=tuple(
            msgspec.structs.replace(ranks, memory=each.memory, traffic=each.traffic, flops=each.flops)
            for ranks, each in zip(plan.rank_classes, costs.rank_classes, strict=True)
        ),
    )


def has_costs(plan: JobPlan) -> bool:
    """Return whether the memory of the plan's ranks was counted."""
    return bool(plan.workload) and all(ranks.memory for ranks in plan.rank_classes)


def without_costs(plan: JobPlan) -> JobPlan:
    """Return `plan` as if its memory had not been counted."""
    return msgspec.structs.replace(
        plan,
        workload=UNSET,
        rank_classes=tuple(
            msgspec.structs.replace(ranks, memory=UNSET, traffic=UNSET, flops=UNSET) for ranks in plan.rank_classes
        ),
    )
