"""CL3, parallel layout: layouts that do not divide the model, or divide it at a price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.rules.linears import places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class FactorShardingMismatch(Rule):
    """A factor is split over ranks in another way than its linear needs. A proof finds this by
    comparing tp = 2 with tp = 1.

    Bad: outputs of tp = 2 that differ from those of tp = 1.
    Good: `clora-inspect verify JOB` passes.
    """

    code = "CL302"
    name = "factor-sharding-mismatch"
    severity = Severity.ERROR
    needs = Needs.FORWARD


class LayoutNotDivisible(Rule):
    """The model cannot have this layout: something in it cannot be divided by the size of the axis
    that splits it, or a function has built it for another layout. The job cannot be planned until
    this is fixed.

    Bad: `{ pp = 3 }` for a model of 32 layers.
    Good: `{ pp = 4 }`
    """

    code = "CL306"
    name = "layout-not-divisible"
    severity = Severity.ERROR
    needs = Needs.BUILD


class LatentAttentionWithoutSP(Rule):
    """Latent attention is adapted with tp > 1 and without sequence parallelism, where megatron-core
    does not sum a gradient over tp.

    That is the gradient of the shared rotary key. The adapter on `linear_kv_down_proj` then gets
    one rank's part of its gradient (Megatron-LM issue 1699, seen in 0.16.1).

    Bad: `linear_kv_down_proj` targeted with tp = 2 and `sp = false`
    Good: `sp = true`
    """

    code = "CL313"
    name = "latent-attention-without-sp"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        layout = job.plan.layout
        hit = [one for one in job.adapted if one.last_name == "linear_kv_down_proj"]
        if layout.tp > 1 and not job.sequence_parallel and hit:
            advice, key = job.turning_sp_on
            yield self.found(
                f"linear_kv_down_proj is adapted with tp = {layout.tp} and no sequence parallelism: megatron-core does "
                "not sum its gradient over tp",
                fix=advice,
                details=places(hit),
                location=job.location_of(key),
            )
