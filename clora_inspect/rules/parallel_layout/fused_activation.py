"""CL3, parallel layout: activations that megatron-core's fused kernels do not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

DENSE = {("gelu", False), ("gelu", True), ("silu", True)}
"""Activation and gate of the kernels of dense MLPs and shared experts."""

EXPERTS = {("silu", True), ("quick_gelu", True)}
"""Activation and gate of the kernels of routed experts, which weigh the tokens as well."""


class FusedActivation(Rule):
    """`bias_activation_fusion` is on, and there is no fused kernel for the activation of these
    MLPs: megatron-core raises in the first forward.

    Dense MLPs and shared experts have kernels for GELU, with and without a gate, and for SwiGLU.
    Routed experts have kernels for SwiGLU and for the gated quick GELU. megatron-core's config
    checks the two lists together, so that a mixture of both kinds of MLP may have no activation
    that works.

    Bad: `bias_activation_fusion = true` with GELU in a mixture of experts.
    Good: `bias_activation_fusion = false`
    """

    code = "CL321"
    name = "fused-activation"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if not job.config.get("bias_activation_fusion"):
            return
        # megatron-core's default activation is GELU, which the config of a plan leaves out.
        kernel = (job.config.get("activation_func", "gelu"), job.is_gated)
        without = [
            place
            for place, kernels in ((Place.MLP, DENSE), (Place.SHARED_EXPERTS, DENSE), (Place.EXPERTS, EXPERTS))
            if kernel not in kernels and any(linear.place is place for linear in job.linears)
        ]
        if without:
            yield self.found(
                f"bias_activation_fusion is on, and megatron-core has no fused kernel for {kernel[0]} "
                f"{'with' if job.is_gated else 'without'} a gate in {' and '.join(without)}",
                fix="set bias_activation_fusion = false",
                location=job.location_of("model.bias_activation_fusion"),
            )
