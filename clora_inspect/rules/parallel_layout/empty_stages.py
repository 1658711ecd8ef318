"""CL3, parallel layout: ranks that hold no adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class StageWithoutAdapters(Rule):
    """A pipeline stage has no adapter, so its ranks have nothing to train: an optimizer without
    parameters, and idle memory.

    Some training loops fail on it, others go on. Often a pattern with layer numbers is to blame.

    Bad: `target_modules = ["decoder.layers.9.self_attention.linear_proj"]` where some stages have
    fewer layers.
    Good: targets that every stage has.
    """

    code = "CL301"
    name = "stage-without-adapters"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        empty = [ranks for ranks in job.plan.rank_classes if not ranks.placements]
        if job.adapted and empty:
            stages = fold(ranks.pp for ranks in empty)
            yield self.found(
                f"pipeline stage{'s' if len(empty) > 1 else ''} {stages} of {job.plan.layout.pp} ha{'ve' if len(empty) > 1 else 's'} "
                f"no adapter: {counted(sum(ranks.count for ranks in empty), 'rank')} would train nothing",
                fix="see what is missed there: clora-inspect plan JOB --only missed",
                location=job.location_of("lora.target_modules"),
            )


class ChunkWithoutAdapters(Rule):
    """A virtual chunk of an interleaved pipeline has no adapter, while others of its rank have.

    Bad: a pattern with a layer number that some chunks do not reach.
    Good: targets that every chunk has.
    """

    code = "CL310"
    name = "chunk-without-adapters"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        vpp = job.plan.layout.vpp
        if vpp == 1:
            return
        empty = []
        for ranks in job.plan.rank_classes:
            have = {placement.chunk for placement in ranks.placements}
            if have:
                empty += [f"stage {ranks.pp} chunk {chunk}" for chunk in range(vpp) if chunk not in have]
        if empty:
            yield self.found(
                f"{counted(len(empty), 'virtual chunk')} of {vpp * job.plan.layout.pp} ha{'s' if len(empty) == 1 else 've'} no adapter",
                details=empty,
                fix="see what is missed there: clora-inspect plan JOB --only missed",
                location=job.location_of("lora.target_modules"),
            )
