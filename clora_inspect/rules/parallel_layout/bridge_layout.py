"""CL3, parallel layout: what Megatron-Bridge gets wrong on many ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

_ROW_PARALLEL = frozenset({"TERowParallelLinear", "RowParallelLinear", "TERowParallelGroupedLinear"})


class ReplicatedFactorUnreduced(Rule):
    """Megatron-Bridge splits the adapters of replicated linears under sequence parallelism,
    although every rank has the whole linear.

    Such linears are the down-projections of latent attention. Shapes stay right, but outputs and
    gradients are silently wrong. Releases after August 2026 have this fixed.

    Bad: `linear_q_down_proj` targeted with tp = 2 and sp on, trained by Megatron-Bridge.
    Good: those targets left out, or another implementation.
    """

    code = "CL303"
    name = "replicated-factor-unreduced"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, layout = job.reference_with(Fault.SHARDS_DUPLICATED), job.plan.layout
        # TELinear is the class of linears that every tensor-parallel rank holds whole.
        hit = [one for one in job.adapted if one.class_name == "TELinear"]
        if reference and layout.tp > 1 and job.sequence_parallel and hit:
            yield self.found(
                f"{counted(len(hit), 'adapter')} on replicated linears with tp = {layout.tp} and sp: {reference.label} "
                "computes them wrong",
                fix="leave them out, or train with clora",
                details=places(hit),
                location=job.location_of("lora.target_modules"),
            )


class ExpertGroupMismatch(Rule):
    """Megatron-Bridge before 0.6 averages the gradients of pairs per expert over the wrong ranks
    where ep is 1 and etp differs from tp.

    Bad: `share_expert_adapters = false` with tp = 2, ep = 1, etp = 1, trained by Megatron-Bridge
    0.5.
    Good: ep > 1, or etp = tp.
    """

    code = "CL304"
    name = "expert-group-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, layout = job.reference_with(Fault.EXPERT_GROUP), job.plan.layout
        # The fault is that of grouped linears. Sequential experts are modules of their own.
        hit = [
            one
            for one, placement in job.placements
            if placement.experts
            and placement.experts.per_expert
            and placement.copies == 1
            and ".local_experts." not in one.path
        ]
        if reference and layout.ep == 1 and layout.expert_tp != layout.tp and hit:
            yield self.found(
                f"a pair per expert with ep = 1, etp = {layout.expert_tp} and tp = {layout.tp}: {reference.label} "
                "averages its gradients over the wrong ranks",
                fix=f"use ep > 1, or etp = {layout.tp}",
                details=places(hit),
                location=job.location_of("lora.share_expert_adapters"),
            )


class ExpertsUnsynchronised(Rule):
    """Megatron-Bridge trains another shared pair of a layer's experts on each expert-parallel rank.

    With ep = 8 it trains eight pairs where one was meant. Results change with ep, and a run cannot
    be resumed at another ep. Releases before 0.6 start the pairs apart. From 0.6 on they start
    equal, and stay so only where `gradient_accumulation_fusion` is off: its kernel adds gradients
    where nothing sums them over the ranks. The providers switch it on where Apex or Transformer
    Engine has the kernel. Builds after September 2026 have this mended.

    Bad: the default `share_expert_adapters = true` with ep = 8, trained by Megatron-Bridge 0.5.
    Good: Megatron-Bridge 0.6 with `gradient_accumulation_fusion = false`, or
    `share_expert_adapters = false`
    """

    code = "CL305"
    name = "experts-unsynchronised"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        ep, hit = job.plan.layout.ep, job.with_shared_pair()
        if ep == 1 or not hit:
            return
        # Where the pairs start apart nobody asks how they drift apart.
        apart = job.reference_with(Fault.UNSYNCHRONISED_EXPERTS)
        fused = job.reference_with(Fault.FUSED_GRADIENTS) if _may_fuse_gradients(job) else None
        if apart:
            yield self.found(
                f"shared expert adapters with ep = {ep}: {apart.label} starts {ep} different pairs per layer",
                fix="use release 0.6 without gradient_accumulation_fusion, or share_expert_adapters = false",
                details=places(hit),
                location=job.location_of("lora.share_expert_adapters"),
            )
        elif fused:
            yield self.found(
                f"shared expert adapters with ep = {ep}: {fused.label} adds up their gradients over the ranks only "
                "where weight gradients are not fused, so that the pairs drift apart",
                fix="--set model.gradient_accumulation_fusion=false, here and in training; or share_expert_adapters = "
                "false",
                details=places(hit),
                location=job.location_of("lora.share_expert_adapters"),
            )


class ExpertTensorParallel(Rule):
    """Megatron-Bridge computes the adapters of routed experts wrong under expert tensor
    parallelism: some terms are doubled, missing or detached.

    The run completes, but the adapter is wrong.

    Bad: etp = 2 with experts targeted, trained by Megatron-Bridge.
    Good: etp = 1
    """

    code = "CL308"
    name = "expert-tensor-parallel"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, etp = job.reference_with(Fault.EXPERT_TP), job.plan.layout.expert_tp
        hit = job.adapted_in(Place.EXPERTS)
        if reference and etp > 1 and hit:
            yield self.found(
                f"routed experts are adapted with etp = {etp}: {reference.label} computes their adapters wrong",
                fix="use etp = 1, or train with clora",
                details=places(hit),
                location=job.location_of("layout.etp"),
            )


class SharedExpertOverlap(Rule):
    """Megatron-Bridge crashes or doubles the delta of adapted shared experts where
    `moe_shared_expert_overlap` is on and tp > 1.

    Some of its model providers turn the overlap on by default.

    Bad: `moe_shared_expert_overlap = true`, tp = 2, shared experts targeted, trained by
    Megatron-Bridge.
    Good: `moe_shared_expert_overlap = false`
    """

    code = "CL309"
    name = "shared-expert-overlap"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, tp = job.reference_with(Fault.SHARED_OVERLAP), job.plan.layout.tp
        hit = job.adapted_in(Place.SHARED_EXPERTS)
        if reference and job.config.get("moe_shared_expert_overlap") and tp > 1 and hit:
            yield self.found(
                f"moe_shared_expert_overlap is on with tp = {tp}: {reference.label} fails at adapted shared experts, "
                "or doubles their delta",
                fix="set moe_shared_expert_overlap = false, or leave the shared experts out",
                details=places(hit),
                location=job.location_of("model.moe_shared_expert_overlap"),
            )


class InitDependsOnTP(Rule):
    """Megatron-Bridge initialises A of a row-parallel linear by the size of one rank's part, so
    that its spread grows with the square root of tp.

    Runs at different tp then start differently, and end differently.

    Bad: comparing a run at tp = 1 with one at tp = 4, both trained by Megatron-Bridge.
    Good: the same tp; or `lora_A_init_method = "normal"`, which does not depend on it.
    """

    code = "CL311"
    name = "init-depends-on-tp"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, tp = job.reference_with(Fault.WEIGHT_TP_INIT), job.plan.layout.tp
        hit = [one for one in job.adapted if one.class_name in _ROW_PARALLEL and one.place is not Place.EXPERTS]
        # Only these two methods draw from a spread that depends on the number of inputs.
        depends_on_size = job.lora.lora_A_init_method in ("xavier", "kaiming")
        if reference and tp > 1 and hit and depends_on_size:
            yield self.found(
                f"{reference.label} draws A of row-parallel linears {tp**0.5:.3g} times as wide at tp = {tp} as at "
                "tp = 1",
                fix="compare runs of equal tp only, or train with clora",
                details=places(hit),
                location=job.location_of("lora.lora_A_init_method"),
            )


class OddTokens(Rule):
    """Megatron-Bridge's q, k and v adapters fail when the number of tokens on a rank is not a
    multiple of tp.

    Training pads its batches. Evaluation, generation (one token a step) and packed batches may not.

    Bad: generating with q, k and v adapters at tp = 2, with Megatron-Bridge.
    Good: sequences padded to a multiple of tp.
    """

    code = "CL312"
    name = "odd-tokens"
    severity = Severity.WARNING
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, tp = job.reference_with(Fault.ODD_TOKENS), job.plan.layout.tp
        if reference and tp > 1 and job.adapted_parts("q", "k", "v"):
            yield self.found(
                f"q, k and v are adapted at tp = {tp}: {reference.label} fails where the tokens of a batch are no "
                f"multiple of {tp}",
                fix=f"pad sequences to a multiple of {tp}, also to evaluate and generate",
                location=job.location_of("layout.tp"),
            )


class MetaInitOrder(Rule):
    """Megatron-Bridge from 0.6 on cannot adapt a model on the meta device where experts share a
    pair and ep > 1.

    When it makes the shared pair it copies it over expert-parallel ranks, which needs real weights.

    Bad: a launcher that builds the model on meta and adapts it there, with ep > 1.
    Good: weights first, then adapters.
    """

    code = "CL314"
    name = "meta-init-order"
    severity = Severity.INFO
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        reference, ep = job.reference_with(Fault.META_EXPERTS), job.plan.layout.ep
        if reference and ep > 1 and job.with_shared_pair():
            yield self.found(
                f"shared expert adapters with ep = {ep}: {reference.label} fails when it adapts a model on the meta "
                "device",
                fix="give the model its weights first, then apply the adapters",
                location=job.location_of("lora.share_expert_adapters"),
            )


def _may_fuse_gradients(job: PlannedJob) -> bool:
    """Return whether training may fuse weight gradients. A plan is always made without, so only
    what the user wrote tells.
    """
    written = (job.plan.model.overrides or {}).get("gradient_accumulation_fusion")
    return written is not False
