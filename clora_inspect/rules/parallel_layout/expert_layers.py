"""CL3, parallel layout: mixtures of experts that megatron-core builds and cannot train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class ExpertsWithoutSP(Rule):
    """A mixture of experts has tp > 1 and no sequence parallelism: megatron-core builds it, and
    raises in the first training forward.

    The exception is a ValueError of `MoELayer` that speaks of performance. Evaluation runs, so that
    a test of generation does not show it.

    Bad: `tp = 2` with `sp = false` for Qwen3-30B-A3B.
    Good: `sp = true`, the default for tp > 1.
    """

    code = "CL315"
    name = "experts-without-sp"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        layout, layers = job.plan.layout, job.modules_of("MoELayer")
        if layers and layout.tp > 1 and not job.sequence_parallel:
            advice, key = job.turning_sp_on
            yield self.found(
                f"{counted(layers, 'layer')} of experts with tp = {layout.tp} and no sequence parallelism: "
                "megatron-core raises ValueError in the first training forward (moe_layer.py)",
                fix=f"{advice}, or use tp = 1",
                location=job.location_of(key),
            )


class LatentExpertsOverlap(Rule):
    """Shared experts are to run beside the communication of routed experts that work in a latent
    space. megatron-core asserts in its forward that they do not.

    Bad: `moe_latent_size = 1024` with `moe_shared_expert_overlap = true`
    Good: `moe_shared_expert_overlap = false`
    """

    code = "CL325"
    name = "latent-experts-overlap"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        size, shared = job.config.get("moe_latent_size"), job.modules_of("SharedExpertMLP")
        if size and shared and job.config.get("moe_shared_expert_overlap"):
            yield self.found(
                f"moe_shared_expert_overlap is on with moe_latent_size = {size}: megatron-core's forward refuses it",
                fix="set moe_shared_expert_overlap = false",
                location=job.location_of("model.moe_shared_expert_overlap"),
            )


class ExpertBiasInPlace(Rule):
    """Experts that are computed one by one have biases, and megatron-core adds them in place to
    what Transformer Engine returns. Its releases from 2.17 on return a view there, which torch does
    not let anybody change: the first training step raises.

    An expert whose `linear_fc2` is adapted is not affected: the adapter's output is added first, to
    a new tensor. Grouped experts add their biases in another way. It is a warning because it
    depends on the release of Transformer Engine that the job trains with. megatron-core 0.19.0 is
    made for 2.17, 0.16.1 for 2.9 to 2.11.

    Bad: `add_bias_linear = true` with `moe_grouped_gemm = false`, and adapters in attention only.
    Good: `moe_grouped_gemm = true`
    """

    code = "CL337"
    name = "expert-bias-in-place"
    severity = Severity.WARNING
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # megatron-core's default is biases, which the config of a plan leaves out.
        if not job.config.get("add_bias_linear", True):
            return
        changed = [
            linear
            for linear in job.linears
            if linear.place is Place.EXPERTS
            and ".local_experts." in linear.path
            and linear.last_name == "linear_fc2"
            and linear.class_name.startswith("TE")
            and linear.placement is None
        ]
        if changed:
            experts = counted(sum(linear.copies for linear in changed), "routed expert")
            yield self.found(
                f"megatron-core adds the bias of linear_fc2 in place in {experts}, and Transformer Engine 2.17 and "
                "later return a view there: RuntimeError in the first training step (mlp.py)",
                fix="set moe_grouped_gemm = true, adapt linear_fc2 of all experts, or train with Transformer Engine "
                "2.16 or older",
                where=changed[0].path,
                location=job.location_of("model.add_bias_linear"),
            )
