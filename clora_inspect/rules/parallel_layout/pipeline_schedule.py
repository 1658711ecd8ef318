"""CL3, parallel layout: settings that megatron-core's pipeline schedules refuse in their first
step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class PipelineCommunication(Rule):
    """The pipeline's stages cannot exchange their activations as the config says.

    `overlap_p2p_comm` works in an interleaved pipeline only, and only without `batch_p2p_comm`,
    which is on by default. `use_ring_exchange_p2p` needs a torch that was built with NVIDIA's own
    `ring_exchange`. megatron-core raises in the first step.

    Bad: `overlap_p2p_comm = true` with pp = 2 and vpp = 1.
    Good: `overlap_p2p_comm = true` and `batch_p2p_comm = false` with pp = 2 and vpp = 2.
    """

    code = "CL319"
    name = "pipeline-communication"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        layout, config = job.plan.layout, job.config
        if layout.pp == 1:
            return
        # The config of a plan leaves defaults out, and batch_p2p_comm is on by default.
        batched = config.get("batch_p2p_comm", True)
        if config.get("overlap_p2p_comm") and layout.vpp == 1:
            yield self.found(
                f"overlap_p2p_comm is on with pp = {layout.pp} and no virtual stages: only an interleaved pipeline can "
                "overlap its communication",
                fix="set overlap_p2p_comm = false, or interleave with vpp > 1",
                location=job.location_of("model.overlap_p2p_comm"),
            )
        elif config.get("overlap_p2p_comm") and batched:
            yield self.found(
                "overlap_p2p_comm and batch_p2p_comm (on by default) are both on: megatron-core's schedule refuses the "
                "two",
                fix="set batch_p2p_comm = false",
                location=job.location_of("model.overlap_p2p_comm"),
            )
        if config.get("use_ring_exchange_p2p"):
            yield self.found(
                "use_ring_exchange_p2p is on: it calls torch.distributed.ring_exchange, which no released torch has",
                fix="set use_ring_exchange_p2p = false",
                severity=Severity.WARNING,
                location=job.location_of("model.use_ring_exchange_p2p"),
            )


class MicrobatchGroup(Rule):
    """An interleaved pipeline is to take fewer micro-batches at a time than it has stages:
    megatron-core raises in the first step.

    The number of micro-batches of a step must not be smaller than the group either.

    Bad: `microbatch_group_size_per_vp_stage = 1` with pp = 2 and vpp = 2.
    Good: not set: the group is then as large as the pipeline.
    """

    code = "CL320"
    name = "microbatch-group"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        layout = job.plan.layout
        size = job.config.get("microbatch_group_size_per_vp_stage", layout.pp)
        if layout.vpp > 1 and size < layout.pp:
            yield self.found(
                f"microbatch_group_size_per_vp_stage = {size} with pp = {layout.pp}: a group needs a micro-batch for "
                "each stage",
                fix=f"set at least {layout.pp}, or leave it out",
                location=job.location_of("model.microbatch_group_size_per_vp_stage"),
            )
