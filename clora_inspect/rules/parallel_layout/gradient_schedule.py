"""CL3, parallel layout: schedules of gradients and communication that a frozen base, or its kind of
model, cannot have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class DeferredEmbeddingGradient(Rule):
    """The gradient of the output layer is to be computed after the pipeline has drained, and the
    output layer is frozen.

    A frozen linear of megatron-core takes no buffer for such gradients and asserts so: the last
    stage raises in its first forward. Without adapters the same model trains.

    Bad: `defer_embedding_wgrad_compute = true`
    Good: `defer_embedding_wgrad_compute = false`: a frozen layer has no such gradient to save.
    """

    code = "CL332"
    name = "deferred-embedding-gradient"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.config.get("defer_embedding_wgrad_compute"):
            yield self.found(
                "defer_embedding_wgrad_compute is on, and the output layer is frozen: its forward asserts that there "
                "is no buffer for its gradient",
                fix="set defer_embedding_wgrad_compute = false",
                location=job.location_of("model.defer_embedding_wgrad_compute"),
            )


class OverlapOfMamba(Rule):
    """The communication of the experts is to overlap with other layers, and the model is a Mamba
    model. The schedule for that asserts that the model is a `GPTModel`.

    It is a warning because it was read in megatron-core's source: the schedule needs a GPU.

    Bad: `overlap_moe_expert_parallel_comm = true` for a Nemotron-H with experts.
    Good: `overlap_moe_expert_parallel_comm = false`
    """

    code = "CL333"
    name = "overlap-of-mamba"
    severity = Severity.WARNING
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.config.get("overlap_moe_expert_parallel_comm") and job.modules_of("MambaStack"):
            yield self.found(
                "overlap_moe_expert_parallel_comm is on for a Mamba model: megatron-core's schedule asserts a GPTModel",
                fix="set overlap_moe_expert_parallel_comm = false",
                location=job.location_of("model.overlap_moe_expert_parallel_comm"),
            )
