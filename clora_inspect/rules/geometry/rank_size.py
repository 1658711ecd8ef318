"""CL2, geometry: ranks and sizes that do not suit their linear, or the model."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Needs, Rule, RuleSettings
from clora_inspect.rules.linears import Kind, Linear, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Placement
    from clora_inspect.rules.planned_job import PlannedJob


class RankExceedsDimension(Rule):
    """The LoRA rank is larger than the smaller side of the linear: B A cannot have that rank, and A
    and B are larger than the weight.

    Bad: `dim = 256` on a key projection with 128 outputs.
    Good: `dim = 64`
    """

    code = "CL201"
    name = "rank-exceeds-dimension"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of linear, folded over layers."""
        found: dict[tuple[int, int], list[Linear]] = {}
        for linear, placement in job.placements:
            smallest = min(placement.b_global_shape[-2], placement.a_global_shape[-1])
            if placement.dim > smallest:
                found.setdefault((placement.dim, smallest), []).append(linear)
        for (dim, smallest), linears in found.items():
            for place in places(linears):
                yield self.found(
                    f"rank {dim} is larger than the smaller side of the linear, {smallest} ({place})",
                    fix=f"use dim <= {smallest}, or leave the linear out",
                    where=place,
                    location=job.location_of("lora.dim"),
                )


class RankNotDivisible(Rule):
    """A rank, or a side of a factor, does not divide over the axis that splits it.

    A is split along the rank beside a column-parallel linear, so `dim` must be a multiple of tp (of
    etp in routed experts). With `normalize_moe_lora` it must be one of the router's topk as well.
    The job cannot be planned before this is mended.

    Bad: `dim = 6` with tp = 4
    Good: `dim = 8`
    """

    code = "CL202"
    name = "rank-not-divisible"
    severity = Severity.ERROR
    needs = Needs.BUILD


class ExpertRanksDiffer(Rule):
    """fc1 and fc2 of routed experts get different ranks: where A is split along the rank it is
    rounded up to a multiple of etp.

    Bad: `normalize_moe_lora` with dim 32, topk 8 and etp 8: rank 8 at fc1, 4 at fc2.
    Good: a dim whose quotient is a multiple of etp.
    """

    code = "CL209"
    name = "expert-ranks-differ"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        ranks: dict[str, set[int]] = {}
        for linear, placement in job.placements:
            if linear.kind is Kind.EXPERTS:
                ranks.setdefault(linear.last_name, set()).add(placement.dim)
        first, second = ranks.get("linear_fc1", set()), ranks.get("linear_fc2", set())
        if first and second and first != second:
            yield self.found(
                f"routed experts have rank {_listed(first)} at linear_fc1 and {_listed(second)} at linear_fc2",
                fix=f"use a dim whose quotient by topk is a multiple of etp = {job.plan.layout.etp}",
                location=job.location_of("lora.dim"),
            )


class AdapterLargerThanBase(Rule):
    """A and B together have more parameters than the weight that they stand beside: training the
    weight itself would be cheaper.

    It happens with pairs for every expert of many small experts, and on narrow linears such as the
    router.

    Bad: `dim = 512`, `share_expert_adapters = false` on experts of width 768.
    Good: a smaller dim, or shared pairs.
    """

    code = "CL210"
    name = "adapter-larger-than-base"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding for each kind of linear, folded over layers."""
        found: dict[tuple[int, int], list[Linear]] = {}
        for linear, placement in job.placements:
            adapter, base = placement.model_params // placement.copies, _model_base_params(placement)
            if adapter > base:
                found.setdefault((adapter, base), []).append(linear)
        for (adapter, base), linears in found.items():
            for place in places(linears):
                yield self.found(
                    f"A and B have {adapter:,} parameters and the linear {base:,} ({place})",
                    fix="use a smaller dim, share_expert_adapters = true, or leave the linear out",
                    where=place,
                    location=job.location_of("lora.dim"),
                )


class ProportionSettings(RuleSettings, frozen=True, kw_only=True):
    """Settings of CL211."""

    maximum_share: float = 0.1
    """Largest number of trainable parameters, as a part of the base model's."""


class OutOfProportion(Rule):
    """The adapters have so many parameters that this is hardly low-rank any more.

    Gradients and optimizer states cost 16 bytes for each of them, on every rank that holds it.

    Bad: `dim = 1024` on a model of half a billion parameters.
    Good: `dim = 16`
    """

    code = "CL211"
    name = "out-of-proportion"
    severity = Severity.WARNING
    settings = ProportionSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        settings = self.settings_for(job, ProportionSettings)
        totals = job.plan.totals
        if totals.trainable_params > settings.maximum_share * totals.base_params:
            yield self.found(
                f"{totals.trainable_params:,} trainable parameters are {totals.trainable_params / totals.base_params:.0%} of the base model's "
                f"{totals.base_params:,}",
                fix="use a smaller dim, or fewer targets",
                location=job.location_of("lora.dim"),
            )


def _model_base_params(placement: Placement) -> int:
    """Parameters of the base weight beside an adapter, in the whole model: of all experts, where a
    grouped linear holds them.
    """
    rows, columns = placement.b_global_shape[-2], placement.a_global_shape[-1]
    grouped = placement.experts is not None and ".local_experts." not in placement.module
    return prod((rows, columns, placement.experts.num_experts if grouped and placement.experts else 1))


def _listed(numbers: set[int]) -> str:
    return " and ".join(str(number) for number in sorted(numbers))
