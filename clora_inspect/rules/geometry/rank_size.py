"""CL2, geometry: ranks, scales and shapes that fit their linear badly, or not at all."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule, RuleSettings
from clora_inspect.rules.linears import Kind, Linear, counted, places
from clora_inspect.rules.reference import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.plan import Placement
    from clora_inspect.rules.planned_job import PlannedJob


class GeometryRule(Rule):
    """What the rules of this family have in common."""

    family = "geometry"


class RankExceedsDimension(GeometryRule):
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


class RankNotDivisible(GeometryRule):
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
    needs = "build"


class GQASplitMismatch(GeometryRule):
    """Megatron-Bridge lays q, k and v out by the head counts of all ranks: wrong rows where tp is
    larger than the key-value groups.

    Shapes are right and the loss goes down, but a later token changes what an earlier one gets, and
    the exported adapter is another one.

    Bad: Qwen3-30B-A3B (4 groups) with tp = 8, trained by Megatron-Bridge.
    Good: tp = 4
    """

    code = "CL203"
    name = "gqa-split-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference, tp = job.reference, job.plan.layout.tp
        groups = job.config.get("num_query_groups")
        split = [one for one in job.adapted if one.part in ("q", "k", "v")]
        if reference and Fault.GLOBAL_HEAD_COUNTS in reference.faults and groups and groups < tp and split:
            yield self.found(
                f"{groups} key-value groups and tp = {tp}: {reference.label} gives the q, k and v adapters the wrong rows, silently",
                fix=f"use tp <= {groups}, or train with clora",
                details=places(split),
                location=job.location_of("layout.tp"),
            )


class GatedSplitMismatch(GeometryRule):
    """Megatron-Bridge cuts the fc1 of an MLP without a gate in two halves, called gate and up, that
    mean nothing.

    The forward runs. At export both halves go to the same tensor, and merging fails.

    Bad: the default targets on Nemotron (squared ReLU, no gate), trained by Megatron-Bridge.
    Good: targets without `linear_fc1_gate` and `linear_fc1_up`, or another implementation.
    """

    code = "CL204"
    name = "gated-split-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference = job.reference
        hit = [one for one in job.adapted if one.last_name == "linear_fc1" and one.kind is not Kind.EXPERTS]
        if reference and Fault.SPLITS_UNGATED in reference.faults and not job.is_gated and hit and job.config:
            yield self.found(
                f"the MLP has no gate: {reference.label} splits its linear_fc1 in two halves that mean nothing",
                fix="leave linear_fc1_gate and linear_fc1_up out, or train with clora",
                details=places(hit),
                location=job.location_of("lora.target_modules"),
            )


class DeltaShapeMismatch(GeometryRule):
    """The delta of an adapter has not the shape of its linear's output. A proof finds it, by
    running the model.

    Bad: an adapter whose q, k and v have fewer rows than `linear_qkv`.
    Good: `clora-inspect verify JOB` passes.
    """

    code = "CL205"
    name = "delta-shape-mismatch"
    severity = Severity.ERROR
    needs = "forward"


class OutputGateMismatch(GeometryRule):
    """The attention has an output gate, which Megatron-Bridge does not count: its q, k and v
    adapters give too few rows.

    The forward fails with a size mismatch, after the whole model was loaded.

    Bad: Qwen3-Next with q, k and v targeted, trained by Megatron-Bridge.
    Good: targets without q, k and v, or another implementation.
    """

    code = "CL206"
    name = "output-gate-mismatch"
    severity = Severity.ERROR
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        reference = job.reference
        split = [one for one in job.adapted if one.part in ("q", "k", "v")]
        if not (reference and Fault.NO_OUTPUT_GATE in reference.faults):
            return
        if job.config.get("attention_output_gate") and split:
            rows = sum(placement.b_global_shape[-2] for one, placement in job.placements if one.path == split[0].path)
            gate = job.config.get("num_attention_heads", 0) * job.config.get("kv_channels", 0)
            yield self.found(
                f"linear_qkv holds an output gate: it has {rows:,} rows, and {reference.label} adapts {rows - gate:,} of them",
                fix="leave q, k and v out, or train with clora",
                details=places(split),
                location=job.location_of("lora.target_modules"),
            )


class ScaleSettings(RuleSettings, frozen=True, kw_only=True):
    """Settings of CL207."""

    smallest: float = 0.1
    """The smallest alpha / dim that is usual."""
    largest: float = 8.0
    """The largest."""


class UnusualScale(GeometryRule):
    """alpha / dim, which multiplies the adapter's output, is far from what people use (a quarter to
    four).

    Often one of the two was changed and the other forgotten. A large scale needs a smaller learning
    rate.

    Bad: `dim = 4`, `alpha = 128`
    Good: `dim = 16`, `alpha = 32`
    """

    code = "CL207"
    name = "unusual-scale"
    severity = Severity.WARNING
    settings = ScaleSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        settings = self.settings_for(job, ScaleSettings)
        dim, alpha = job.lora["dim"], job.lora["alpha"]
        if job.adapted and not settings.smallest <= alpha / dim <= settings.largest:
            yield self.found(
                f"alpha / dim = {alpha:g} / {dim} = {alpha / dim:.3g}, outside {settings.smallest:g} to {settings.largest:g}",
                fix=f"usual for dim = {dim}: alpha = {dim} or {2 * dim}",
                location=job.location_of("lora.alpha"),
            )


class ExpertScale(GeometryRule):
    """`normalize_moe_lora` divides the rank of routed experts by the router's topk and leaves
    alpha: their scale grows topk-fold.

    A learning rate that suits the attention is then too large for the experts.

    Bad: `normalize_moe_lora = true` with `dim = 32`, `alpha = 32`, topk 8: scale 1 in the
    attention, 8 in the experts.
    Good: `normalize_moe_lora = false`, or an alpha chosen for the experts.
    """

    code = "CL208"
    name = "expert-scale"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        scales: dict[float, list[Linear]] = {}
        for linear, placement in job.placements:
            scales.setdefault(placement.scale, []).append(linear)
        if len(scales) > 1:
            low, high = min(scales), max(scales)
            yield self.found(
                f"the scale alpha / rank is {high:g} at {counted(len(scales[high]), 'adapter')} and {low:g} at the others: {high / low:g} times",
                fix="set normalize_moe_lora = false, or choose alpha for the experts",
                details=[
                    f"scale {scale:g}  {place}"
                    for scale in sorted(scales, reverse=True)
                    for place in places(scales[scale])
                ],
                location=job.location_of("lora.normalize_moe_lora"),
            )


class ExpertRanksDiffer(GeometryRule):
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


class AdapterLargerThanBase(GeometryRule):
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


class OutOfProportion(GeometryRule):
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


class DilutedExperts(GeometryRule):
    """`normalize_moe_lora` is meant for a pair per expert, and the experts share one: their
    capacity shrinks twice.

    The quotient dim // topk makes sense where a token meets topk pairs, dim ranks in all. A shared
    pair is met by every token once.

    Bad: `normalize_moe_lora = true` with `share_expert_adapters = true`
    Good: `share_expert_adapters = false` beside it, or neither.
    """

    code = "CL212"
    name = "diluted-experts"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        shared = [
            linear
            for linear, placement in job.placements
            if linear.kind is Kind.EXPERTS and placement.experts and not placement.experts.per_expert
        ]
        if job.lora["normalize_moe_lora"] and shared:
            placement = shared[0].placement
            yield self.found(
                f"normalize_moe_lora gives the experts rank {placement.dim if placement else 0}, and all experts share that one pair",
                fix="set share_expert_adapters = false, or normalize_moe_lora = false",
                details=places(shared),
                location=job.location_of("lora.normalize_moe_lora"),
            )


RULES: tuple[type[Rule], ...] = (
    RankExceedsDimension,
    RankNotDivisible,
    GQASplitMismatch,
    GatedSplitMismatch,
    DeltaShapeMismatch,
    OutputGateMismatch,
    UnusualScale,
    ExpertScale,
    ExpertRanksDiffer,
    AdapterLargerThanBase,
    OutOfProportion,
    DilutedExperts,
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
