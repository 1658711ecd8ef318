"""CL6, checkpoint and export: what a serving engine does not load, or does not apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect import engines
from clora_inspect.engines import Engine, EngineError
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.rules.export.exported import ExportRule, exported
from clora_inspect.rules.linears import Kind
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class MixedRanks(ExportRule):
    """Adapters have different ranks, and the engine applies one alpha / r to all: some are scaled
    wrong when they are served unmerged.

    An export writes `rank_pattern` and `alpha_pattern`, which PEFT reads and most engines do not.

    Bad: `normalize_moe_lora = true` and `serve = "vllm"`
    Good: one rank for all, or the merged model served.
    """

    code = "CL605"
    name = "mixed-ranks"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        ranks = sorted({placement.dim for _, placement in job.placements})
        engine = _engine(job)
        if len(ranks) > 1 and not (engine and engine.rank_pattern):
            who = engine.title if engine else "most engines"
            yield self.found(
                f"adapters have ranks {', '.join(map(str, ranks))}, and {who} applies one alpha / r to all",
                fix="serve the merged model, or set normalize_moe_lora = false",
                location=job.location_of("lora.normalize_moe_lora"),
            )


class OneSidedExperts(ExportRule):
    """Of the routed experts only fc1 or only fc2 is adapted: engines load experts in pairs, and
    drop one side without the other.

    The adapter trains and the served model ignores it.

    Bad: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]` on a mixture of experts, with
    `serve = "sglang"`
    Good: `linear_fc2` beside them.
    """

    code = "CL606"
    name = "one-sided-experts"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        engine = _engine(job)
        if not engine or engine.expert_modules != "pairs":
            return
        sides: dict[str, set[int | None]] = {"linear_fc1": set(), "linear_fc2": set()}
        for one in job.adapted:
            if one.kind is Kind.EXPERTS:
                sides[one.last_name].add(one.layer)
        for side, other in (("linear_fc1", "linear_fc2"), ("linear_fc2", "linear_fc1")):
            lonely = sides[side] - sides[other]
            if lonely:
                yield self.found(
                    f"the routed experts of layers {fold(layer for layer in lonely if layer is not None)} have an adapter at {side} and none at "
                    f"{other}: {engine.title} drops it",
                    fix=f"adapt {other} as well, or serve the merged model",
                    location=job.location_of("lora.target_modules"),
                )


class RankNotServable(ExportRule):
    """The rank is larger than what the engine loads: by default, which an option changes, or at
    all.

    Bad: `dim = 64` and `serve = "vllm"`, which loads ranks up to 16 unless it is told otherwise.
    Good: `--max-lora-rank 64` when it is started.
    """

    code = "CL607"
    name = "rank-not-servable"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        engine = _engine(job)
        rank = max(placement.dim for _, placement in job.placements)
        if not engine or engine.default_rank is None or rank <= engine.default_rank:
            return
        fitting = min((known for known in engine.ranks if known >= rank), default=None)
        if fitting is None and engine.ranks:
            yield self.found(
                f"rank {rank} is larger than {max(engine.ranks)}, the largest that {engine.title} loads",
                severity=Severity.ERROR,
                fix=f"use dim <= {max(engine.ranks)}, or serve the merged model",
                location=job.location_of("lora.dim"),
            )
        else:
            yield self.found(
                f"rank {rank} is larger than {engine.default_rank}, the largest that {engine.title} loads by default",
                fix=f"start it with {engine.rank_option} {fitting or rank}",
                location=job.location_of("lora.dim"),
            )


class ModuleNotServed(ExportRule):
    """The engine is not known to apply adapters to some of the modules: it accepts the adapter, and
    leaves them as they are.

    An error when it applies none of them at all.

    Bad: `linear_kv_up_proj` targeted, with `serve = "sglang"`
    Good: modules that the engine serves, or the merged model.
    """

    code = "CL609"
    name = "module-not-served"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        engine = _engine(job)
        if engine is None:
            return
        wanted = {linear.module.rsplit(".", 1)[-1] for one in exported(job) for linear in one.modules}
        dropped = sorted(wanted - engine.modules)
        if dropped:
            nothing = not wanted & engine.modules
            yield self.found(
                f"{engine.title} is not known to apply adapters to {', '.join(dropped)}"
                + (", and to no other of this job" if nothing else ""),
                severity=Severity.ERROR if nothing else Severity.WARNING,
                fix="leave them out, or serve the merged model",
                location=job.location_of("serve"),
            )


class UnknownEngine(ExportRule):
    """The job names an engine of which no profile is known, so nothing about serving is checked.

    Bad: `serve = "vlm"`
    Good: `serve = "vllm"`
    """

    code = "CL610"
    name = "unknown-engine"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        """One finding, or none."""
        if job.serve and _engine(job) is None:
            known = engines.names()
            yield self.found(
                f"no profile of the engine '{job.serve}' is known{nearest(job.serve, known)}",
                fix=f"known: {', '.join(known)}",
                location=job.location_of("serve"),
            )


def _engine(job: PlannedJob) -> Engine | None:
    """The profile of the engine that the job names; None when it names none, or one that is not
    known (CL610 says so).
    """
    if not job.serve:
        return None
    try:
        return engines.load(job.serve)
    except EngineError:
        return None
