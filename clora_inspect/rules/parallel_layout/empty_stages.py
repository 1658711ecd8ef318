"""CL3, parallel layout: pipeline stages and virtual chunks without an adapter."""

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
    """A pipeline stage has no adapter: its ranks have nothing to train, only an optimizer without
    parameters.

    Some training loops fail on such a rank, others go on. The reason is often a pattern with layer
    numbers.

    Bad: `target_modules = ["decoder.layers.9.self_attention.linear_proj"]` where some stages have
    fewer layers.
    Good: targets that every stage has.
    """

    code = "CL301"
    name = "stage-without-adapters"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        empty = [ranks for ranks in job.plan.rank_classes if not ranks.placements]
        if job.adapted and empty:
            stages = fold(ranks.pp for ranks in empty)
            who = f"pipeline stages {stages}" if len(empty) > 1 else f"pipeline stage {stages}"
            verb = "have" if len(empty) > 1 else "has"
            yield self.found(
                f"{who} of {job.plan.layout.pp} {verb} no adapter: "
                f"{counted(sum(ranks.count for ranks in empty), 'rank')} would train nothing",
                fix="see which modules are unmatched there: clora-inspect plan JOB --only missed",
                location=job.location_of("lora.target_modules"),
            )


class ChunkWithoutAdapters(Rule):
    """A virtual chunk of an interleaved pipeline has no adapter, while other chunks of its rank
    have some.

    Bad: a pattern with a layer number that some chunks do not reach.
    Good: targets that every chunk has.
    """

    code = "CL310"
    name = "chunk-without-adapters"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        pp, vpp = job.plan.layout.pp, job.plan.layout.vpp
        if vpp == 1:
            return
        empty = []
        for ranks in job.plan.rank_classes:
            have = {placement.chunk for placement in ranks.placements}
            # A rank without any adapter is reported by CL301.
            if have:
                empty += [f"stage {ranks.pp} chunk {chunk}" for chunk in range(vpp) if chunk not in have]
        if empty:
            yield self.found(
                f"{counted(len(empty), 'virtual chunk')} of {vpp * pp} {'has' if len(empty) == 1 else 'have'} "
                "no adapter",
                details=empty,
                fix="see which modules are unmatched there: clora-inspect plan JOB --only missed",
                location=job.location_of("lora.target_modules"),
            )
