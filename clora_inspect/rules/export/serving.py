"""CL6, checkpoint and export: adapters that a serving engine does not load, or does not apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect import engines
from clora_inspect.engines import Engine, EngineError
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.place import Place
from clora_inspect.rules.export.exported import ExportRule, exported
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class MixedRanks(ExportRule):
    """Adapters have different ranks, and the engine applies one alpha / r to all of them: served
    unmerged, some have the wrong scale.

    An export writes `rank_pattern` and `alpha_pattern`, which PEFT reads and most engines do not.

    Bad: `normalize_moe_lora = true` and `serve = "vllm"`
    Good: one rank for all, or the merged model served.
    """

    code = "CL605"
    name = "mixed-ranks"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        # adapter_config.json has one `r` and one `lora_alpha` for all modules.
        ranks = sorted({placement.dim for _, placement in job.placements})
        engine = _engine(job)
        if len(ranks) > 1 and not (engine and engine.rank_pattern):
            who = engine.title if engine else "most engines"
            verb = "applies" if engine else "apply"
            yield self.found(
                f"adapters have ranks {', '.join(map(str, ranks))}, and {who} {verb} one alpha / r to all",
                fix="serve the merged model, or set normalize_moe_lora = false",
                location=job.location_of("lora.normalize_moe_lora"),
            )


class OneSidedExperts(ExportRule):
    """Only fc1 or only fc2 of the routed experts is adapted, and the engine loads adapters of
    experts in pairs: it drops one side without the other.

    The adapter is trained, and the served model ignores it.

    Bad: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]` on a mixture of experts, with
    `serve = "sglang"`
    Good: `linear_fc2` as a target too.
    """

    code = "CL606"
    name = "one-sided-experts"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        engine = _engine(job)
        if not engine or engine.expert_modules != "pairs":
            return
        # By layer, because a pattern may adapt both sides, but in different layers.
        layers: dict[str, set[int | None]] = {"linear_fc1": set(), "linear_fc2": set()}
        for one in job.adapted_in(Place.EXPERTS):
            layers[one.last_name].add(one.layer)
        for side, other in (("linear_fc1", "linear_fc2"), ("linear_fc2", "linear_fc1")):
            alone = layers[side] - layers[other]
            if alone:
                yield self.found(
                    f"the routed experts of layers {fold(layer for layer in alone if layer is not None)} have an "
                    f"adapter at {side} and none at {other}: {engine.title} drops it",
                    fix=f"adapt {other} as well, or serve the merged model",
                    location=job.location_of("lora.target_modules"),
                )


class RankNotServable(ExportRule):
    """The rank is larger than what the engine loads, either by default or at all. An option of the
    engine changes the default.

    Bad: `dim = 64` and `serve = "vllm"`, which loads ranks up to 16 by default.
    Good: `--max-lora-rank 64` when it is started.
    """

    code = "CL607"
    name = "rank-not-servable"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        engine = _engine(job)
        rank = max(placement.dim for _, placement in job.placements)
        if not engine or engine.default_rank is None or rank <= engine.default_rank:
            return
        # An engine takes one of a few largest ranks: find the smallest that is large enough.
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
    """The engine is not known to apply adapters to some of the modules. It accepts the adapter and
    leaves those modules as they are.

    This is an error when it applies none of the adapters.

    Bad: `linear_kv_up_proj` targeted, with `serve = "sglang"`
    Good: modules that the engine serves, or the merged model.
    """

    code = "CL609"
    name = "module-not-served"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
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
    """There is no profile of the engine that the job names, so that nothing about serving is
    checked.

    Bad: `serve = "vlm"`
    Good: `serve = "vllm"`
    """

    code = "CL610"
    name = "unknown-engine"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        if job.serve and _engine(job) is None:
            known = engines.names()
            yield self.found(
                f"there is no profile of the engine '{job.serve}'{nearest(job.serve, known)}",
                fix=f"known: {', '.join(known)}",
                location=job.location_of("serve"),
            )


def _engine(job: PlannedJob) -> Engine | None:
    """Return the profile of the engine that the job names; None when there is none, which CL610
    reports.
    """
    if not job.serve:
        return None
    try:
        return engines.load(job.serve)
    except EngineError:
        return None
