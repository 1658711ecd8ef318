"""CL2, geometry: ranks that do not fit their linear, and adapters that are too large."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Needs, Rule, RuleSettings
from clora_inspect.rules.linears import Linear, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Placement
    from clora_inspect.rules.planned_job import PlannedJob


class RankExceedsDimension(Rule):
    """The LoRA rank is larger than the smaller side of the linear.

    The product B A cannot have a rank above that side, and A and B together are larger than the
    weight.

    Bad: `dim = 256` on a key projection with 128 outputs.
    Good: `dim = 64`
    """

    code = "CL201"
    name = "rank-exceeds-dimension"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        found: dict[tuple[int, int], list[Linear]] = {}
        for linear, placement in job.placements:
            # A is [rank, in] and B [out, rank]; where experts have pairs, a dim stands before them.
            smallest = min(placement.b_global_shape[-2], placement.a_global_shape[-1])
            if placement.dim > smallest:
                found.setdefault((placement.dim, smallest), []).append(linear)
        for (dim, smallest), linears in found.items():
            largest = _lora_dim(job, smallest, dim)
            for place in places(linears):
                yield self.found(
                    f"rank {dim} is larger than the smaller side of the linear, {smallest} ({place})",
                    fix=f"use dim <= {largest}, or leave the linear out",
                    where=place,
                    location=job.location_of("lora.dim"),
                )


class RankNotDivisible(Rule):
    """A rank, or a side of a factor, cannot be divided by the size of the axis that splits it. The
    job cannot be planned until this is fixed.

    Beside a column-parallel linear A is split along the rank, so that `dim` must be a multiple of
    tp, or of etp in routed experts. With `normalize_moe_lora` it must also be a multiple of the
    router's topk.

    Bad: `dim = 6` with tp = 4
    Good: `dim = 8`
    """

    code = "CL202"
    name = "rank-not-divisible"
    severity = Severity.ERROR
    needs = Needs.BUILD


class ExpertRanksDiffer(Rule):
    """The adapters at fc1 and fc2 of routed experts have different ranks.

    At fc1 the rank is split over expert-tensor-parallel ranks, and is rounded up to a multiple of
    etp. At fc2 it is not.

    Bad: `normalize_moe_lora` with dim 32, topk 8 and etp 8: rank 8 at fc1, 4 at fc2.
    Good: a dim for which dim / topk is a multiple of etp.
    """

    code = "CL209"
    name = "expert-ranks-differ"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        ranks: dict[str, set[int]] = {}
        for linear, placement in job.placements:
            if linear.place is Place.EXPERTS:
                ranks.setdefault(linear.last_name, set()).add(placement.dim)
        first, second = ranks.get("linear_fc1", set()), ranks.get("linear_fc2", set())
        if first and second and first != second:
            yield self.found(
                f"routed experts have rank {_listed(first)} at linear_fc1 and {_listed(second)} at linear_fc2",
                fix=f"use a dim for which dim / topk is a multiple of etp = {job.plan.layout.expert_tp}",
                location=job.location_of("lora.dim"),
            )


class AdapterLargerThanBase(Rule):
    """A and B together have more parameters than the weight beside them. Training the weight itself
    would be cheaper.

    This happens when each of many small experts has a pair of its own, and on narrow linears such
    as the router.

    Bad: `dim = 512`, `share_expert_adapters = false` on experts of width 768.
    Good: a smaller dim, or shared pairs.
    """

    code = "CL210"
    name = "adapter-larger-than-base"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        found: dict[tuple[int, int, str], list[Linear]] = {}
        for linear, placement in job.placements:
            # `model_params` counts all copies of a sequential expert, and the base one expert.
            adapter, base = placement.model_params // placement.copies, _base_params(placement)
            if adapter > base:
                remedy = _smaller_adapter(job, placement, adapter, base)
                found.setdefault((adapter, base, remedy), []).append(linear)
        for (adapter, base, remedy), linears in found.items():
            for place in places(linears):
                yield self.found(
                    f"A and B have {adapter:,} parameters and the linear {base:,} ({place})",
                    fix=remedy,
                    where=place,
                    location=job.location_of("lora.dim"),
                )


class ProportionSettings(RuleSettings, frozen=True, kw_only=True):
    maximum_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Largest number of trainable parameters, as a share of the base model's."""


class OutOfProportion(Rule):
    """The adapters have so many parameters that training is no longer low-rank.

    Gradients and optimizer states take 16 bytes for each of these parameters, on every rank that
    holds it.

    Bad: `dim = 1024` on a model of half a billion parameters.
    Good: `dim = 16`
    """

    code = "CL211"
    name = "out-of-proportion"
    severity = Severity.WARNING
    settings = ProportionSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        settings = self.settings_for(job, ProportionSettings)
        trainable, base = job.plan.totals.trainable_params, job.plan.totals.base_params
        if trainable > settings.maximum_share * base:
            yield self.found(
                f"{trainable:,} trainable parameters are {trainable / base:.0%} of the base model's {base:,}",
                fix="use a smaller dim, or fewer targets",
                location=job.location_of("lora.dim"),
            )


def _smaller_adapter(job: PlannedJob, placement: Placement, adapter: int, base: int) -> str:
    """Say what makes an adapter no larger than the weight beside it."""
    remedies = []
    largest = base * placement.dim // adapter
    if largest:
        remedies.append(f"use dim <= {_lora_dim(job, largest, placement.dim)}")
    experts = placement.experts
    if experts and experts.per_expert and _is_grouped(placement) and adapter <= base * experts.num_experts:
        remedies.append("share_expert_adapters = true")
    return ", or ".join([*remedies, "leave the linear out"])


def _lora_dim(job: PlannedJob, rank: int, dim: int) -> int:
    """Return the job's dim for which a linear has `rank`; it has `dim` now. With
    `normalize_moe_lora` routed experts have a smaller one than the rest.
    """
    return rank * job.lora.dim // dim


def _base_params(placement: Placement) -> int:
    """Count the base parameters beside one adapter in the whole model. A grouped linear counts
    those of all experts of its layer.
    """
    rows, columns = placement.b_global_shape[-2], placement.a_global_shape[-1]
    return prod((rows, columns, placement.experts.num_experts if _is_grouped(placement) and placement.experts else 1))


def _is_grouped(placement: Placement) -> bool:
    """Say whether the linear is that of all routed experts of its layer together."""
    return placement.experts is not None and ".local_experts." not in placement.module


def _listed(numbers: set[int]) -> str:
    return " and ".join(str(number) for number in sorted(numbers))
