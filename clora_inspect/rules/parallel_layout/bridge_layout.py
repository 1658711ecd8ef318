"""CL3, parallel layout: what Megatron-Bridge gets wrong on many ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Kind, counted, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


_ROW_PARALLEL = frozenset({"TERowParallelLinear", "RowParallelLinear", "TERowParallelGroupedLinear"})


class ReplicatedFactorUnreduced(Rule):
    """Megatron-Bridge splits the adapters of replicated linears (the down-projections of latent
    attention) under sequence parallelism.

    Shapes stay right; outputs and gradients are wrong, silently. Releases after August 2026 have it
    mended.

    Bad: `linear_q_down_proj` targeted with tp = 2 and sp on, trained by Megatron-Bridge.
    Good: those targets left out, or sp off.
    """

    code = "CL303"
    name = "replicated-factor-unreduced"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, layout = job.reference, job.plan.layout
        hit = [one for one in job.adapted if one.class_name == "TELinear"]
        if (
            reference
            and Fault.SHARDS_DUPLICATED in reference.faults
            and layout.tp > 1
            and layout.sequence_parallel
            and hit
        ):
            yield self.found(
                f"{counted(len(hit), 'adapter')} on replicated linears with tp = {layout.tp} and sp: {reference.label} computes them wrong",
                fix="leave them out, or train with clora",
                details=places(hit),
                location=job.location_of("lora.target_modules"),
            )


class ExpertGroupMismatch(Rule):
    """Megatron-Bridge before 0.6 averages the gradients of pairs per expert over the wrong ranks
    when ep is 1 and etp is not tp.

    Bad: `share_expert_adapters = false` with tp = 2, ep = 1, etp = 1, trained by Megatron-Bridge
    0.5.
    Good: ep > 1, or etp = tp.
    """

    code = "CL304"
    name = "expert-group-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, layout = job.reference, job.plan.layout
        hit = [one for one, p in job.placements if p.experts and p.experts.per_expert and p.copies == 1]
        hit = [one for one in hit if ".local_experts." not in one.path]
        if reference and Fault.EXPERT_GROUP in reference.faults and layout.ep == 1 and layout.etp != layout.tp and hit:
            yield self.found(
                f"a pair per expert with ep = 1, etp = {layout.etp} and tp = {layout.tp}: {reference.label} averages its gradients over the "
                "wrong ranks",
                fix=f"use ep > 1, or etp = {layout.tp}",
                details=places(hit),
                location=job.location_of("lora.share_expert_adapters"),
            )


class ExpertsUnsynchronised(Rule):
    """Megatron-Bridge before 0.6 starts the shared pair of a layer's experts differently on every
    expert-parallel rank.

    So ep = 8 trains eight pairs where one was meant, results change with ep, and a resume at
    another ep breaks.

    Bad: the default `share_expert_adapters = true` with ep = 8, trained by Megatron-Bridge 0.5.
    Good: Megatron-Bridge 0.6, or `share_expert_adapters = false`
    """

    code = "CL305"
    name = "experts-unsynchronised"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, ep = job.reference, job.plan.layout.ep
        hit = [one for one, p in job.placements if p.experts and not p.experts.per_expert]
        if reference and Fault.UNSYNCHRONISED_EXPERTS in reference.faults and ep > 1 and hit:
            yield self.found(
                f"shared expert adapters with ep = {ep}: {reference.label} starts {ep} different pairs per layer",
                fix="use release 0.6, or share_expert_adapters = false",
                details=places(hit),
                location=job.location_of("lora.share_expert_adapters"),
            )


class ExpertTensorParallel(Rule):
    """Adapters of routed experts under expert tensor parallelism are not exact in Megatron-Bridge:
    terms doubled, missing or detached.

    It runs to completion; the adapter is wrong.

    Bad: etp = 2 with experts targeted, trained by Megatron-Bridge.
    Good: etp = 1
    """

    code = "CL308"
    name = "expert-tensor-parallel"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, etp = job.reference, job.plan.layout.etp
        hit = [one for one in job.adapted if one.kind is Kind.EXPERTS]
        if reference and Fault.EXPERT_TP in reference.faults and etp > 1 and hit:
            yield self.found(
                f"routed experts are adapted with etp = {etp}: {reference.label} computes their adapters wrong",
                fix="use etp = 1, or train with clora",
                details=places(hit),
                location=job.location_of("layout.etp"),
            )


class SharedExpertOverlap(Rule):
    """`moe_shared_expert_overlap` with adapted shared experts and tp > 1: Megatron-Bridge crashes,
    or doubles the delta.

    The overlap is on by default in some of its providers.

    Bad: `moe_shared_expert_overlap = true`, tp = 2, shared experts targeted, trained by
    Megatron-Bridge.
    Good: `moe_shared_expert_overlap = false`
    """

    code = "CL309"
    name = "shared-expert-overlap"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, tp = job.reference, job.plan.layout.tp
        hit = [one for one in job.adapted if one.kind is Kind.SHARED_EXPERTS]
        if not (reference and Fault.SHARED_OVERLAP in reference.faults):
            return
        if job.config.get("moe_shared_expert_overlap") and tp > 1 and hit:
            yield self.found(
                f"moe_shared_expert_overlap is on with tp = {tp}: {reference.label} fails at adapted shared experts, or doubles their delta",
                fix="set moe_shared_expert_overlap = false, or leave the shared experts out",
                details=places(hit),
                location=job.location_of("model.moe_shared_expert_overlap"),
            )


class InitDependsOnTP(Rule):
    """Megatron-Bridge draws A of a row-parallel linear with the fan of one rank's shard: its spread
    grows with the root of tp.

    Runs at different tp then start, and end, differently.

    Bad: comparing a run at tp = 1 with one at tp = 4, both trained by Megatron-Bridge.
    Good: the same tp; `lora_A_init_method = "normal"` does not depend on it.
    """

    code = "CL311"
    name = "init-depends-on-tp"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, tp = job.reference, job.plan.layout.tp
        hit = [one for one in job.adapted if one.class_name in _ROW_PARALLEL and one.kind is not Kind.EXPERTS]
        if not (reference and Fault.WEIGHT_TP_INIT in reference.faults):
            return
        if tp > 1 and hit and job.lora.lora_A_init_method in ("xavier", "kaiming"):
            yield self.found(
                f"{reference.label} draws A of row-parallel linears {tp**0.5:.3g} times as wide at tp = {tp} as at tp = 1",
                fix="compare runs of equal tp only, or train with clora",
                details=places(hit),
                location=job.location_of("lora.lora_A_init_method"),
            )


class OddTokens(Rule):
    """Megatron-Bridge's q, k and v adapters fail when the tokens on a rank are no multiple of tp.

    Training pads; evaluation, generation (one token a step) and packed batches may not.

    Bad: generating with q, k and v adapters at tp = 2, with Megatron-Bridge.
    Good: sequences padded to a multiple of tp.
    """

    code = "CL312"
    name = "odd-tokens"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, tp = job.reference, job.plan.layout.tp
        split = [one for one in job.adapted if one.part in ("q", "k", "v")]
        if reference and Fault.GLOBAL_HEAD_COUNTS in reference.faults and tp > 1 and split:
            yield self.found(
                f"q, k and v are adapted at tp = {tp}: {reference.label} fails where the tokens of a batch are no multiple of {tp}",
                fix=f"pad sequences to a multiple of {tp}, also to evaluate and generate",
                location=job.location_of("layout.tp"),
            )


class MetaInitOrder(Rule):
    """Megatron-Bridge copies shared expert adapters over expert-parallel ranks when it makes them,
    which it cannot on the meta device.

    Bad: a launcher that builds the model on meta and adapts it there, with ep > 1.
    Good: weights first, then adapters.
    """

    code = "CL314"
    name = "meta-init-order"
    severity = Severity.INFO
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, ep = job.reference, job.plan.layout.ep
        hit = [one for one, p in job.placements if p.experts and not p.experts.per_expert]
        if reference and Fault.UNSYNCHRONISED_EXPERTS not in reference.faults and ep > 1 and hit:
            yield self.found(
                f"shared expert adapters with ep = {ep}: {reference.label} fails when it adapts a model on the meta device",
                fix="give the model its weights first, then apply the adapters",
                location=job.location_of("lora.share_expert_adapters"),
            )
