"""CL3, parallel layout: layouts that do not divide the model, or cost communication or gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.rules.linears import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class FactorShardingMismatch(Rule):
    """A factor is split over ranks in another way than its linear asks. A proof finds it, by
    comparing tp = 2 with tp = 1.

    Bad: outputs of tp = 2 that differ from those of tp = 1.
    Good: `clora-inspect verify JOB` passes.
    """

    code = "CL302"
    name = "factor-sharding-mismatch"
    severity = Severity.ERROR
    needs = Needs.FORWARD


class LayoutNotDivisible(Rule):
    """The model cannot have this layout: an axis does not divide what it splits. The job cannot be
    planned before this is mended.

    Bad: `{ pp = 3 }` for a model of 32 layers.
    Good: `{ pp = 4 }`
    """

    code = "CL306"
    name = "layout-not-divisible"
    severity = Severity.ERROR
    needs = Needs.BUILD


class TPExceedsGroups(Rule):
    """There are more tensor-parallel ranks than key-value groups, so that a group is cut over
    ranks.

    megatron-core gathers the group before the attention, and the adapters follow it; it is right,
    and costs communication. (Where Megatron-Bridge trains, it is wrong: CL203.)

    Bad: Qwen3-30B-A3B (4 groups) with tp = 8, without need.
    Good: tp = 4
    """

    code = "CL307"
    name = "tp-exceeds-groups"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        tp, groups = job.plan.layout.tp, job.config.get("num_query_groups")
        split = [one for one in job.adapted if one.part in ("q", "k", "v")]
        if groups and groups < tp and split and not job.reference:
            yield self.found(
                f"tp = {tp} cuts each of the {groups} key-value groups over {tp // groups} ranks: q, k and v adapters follow, with communication",
                fix=f"tp <= {groups} does without",
                details=places(split),
                location=job.location_of("layout.tp"),
            )


class LatentAttentionWithoutSP(Rule):
    """Latent attention with tp > 1 and no sequence parallelism: megatron-core sums a gradient over
    tp only where sp is on.

    The gradient of the shared rotary key, and so of the adapter on `linear_kv_down_proj`, is one
    rank's part of it (Megatron-LM issue 1699, seen in 0.16.1).

    Bad: `linear_kv_down_proj` targeted with tp = 2 and `sp = false`
    Good: `sp = true`
    """

    code = "CL313"
    name = "latent-attention-without-sp"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        layout = job.plan.layout
        hit = [one for one in job.adapted if one.last_name == "linear_kv_down_proj"]
        if layout.tp > 1 and not layout.sequence_parallel and hit:
            yield self.found(
                f"linear_kv_down_proj is adapted with tp = {layout.tp} and no sequence parallelism: megatron-core does not sum its gradient "
                "over tp",
                fix="turn sp on",
                details=places(hit),
                location=job.location_of("layout.sp"),
            )
