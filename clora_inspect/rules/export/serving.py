"""CL6, checkpoint and export: adapters that a serving engine does not load, or does not apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect import engines
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.place import Place
from clora_inspect.rules.export.exported import ExportRule, exported
from clora_inspect.rules.exportable import engine_of
from clora_inspect.rules.linears import Linear, places
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.engines import Engine
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
        engine = engine_of(job)
        if len(ranks) > 1 and not (engine and engine.rank_pattern):
            who = engine.label if engine else "most engines"
            verb = "applies" if engine else "apply"
            yield self.found(
                f"adapters have ranks {', '.join(map(str, ranks))}, and {who} {verb} one alpha / r to all",
                fix="serve the merged model, or set normalize_moe_lora = false",
                location=job.location_of("lora.normalize_moe_lora"),
            )


class OneSidedExperts(ExportRule):
    """Only some projections of the routed experts are adapted, and the engine applies adapters of
    experts either at all of them or nowhere.

    The adapter is trained, and the served model ignores it.

    Bad: `target_modules = ["linear_fc1_gate", "linear_fc1_up"]` on a mixture of experts, with
    `serve = "sglang"`
    Good: `linear_fc2` as a target too.
    """

    code = "CL606"
    name = "one-sided-experts"
    severity = Severity.ERROR

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        engine = engine_of(job)
        if not engine or engine.expert_modules != "pairs":
            return
        for (have, lack), layers in _one_sided(job).items():
            yield self.found(
                f"the routed experts of layers {fold(sorted(layers))} have an adapter at {have} and none at {lack}: "
                f"{engine.label} drops it",
                fix=f"adapt {lack} as well, or serve the merged model",
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
        engine = engine_of(job)
        rank = max(placement.dim for _, placement in job.placements)
        if not engine or engine.default_rank is None or rank <= engine.default_rank:
            return
        # An engine takes one of a few largest ranks: find the smallest that is large enough.
        fitting = min((known for known in engine.ranks if known >= rank), default=None)
        if fitting is None and engine.ranks:
            yield self.found(
                f"rank {rank} is larger than {max(engine.ranks)}, the largest that {engine.label} loads",
                severity=Severity.ERROR,
                fix=f"use dim <= {max(engine.ranks)}, or serve the merged model",
                location=job.location_of("lora.dim"),
            )
        else:
            yield self.found(
                f"rank {rank} is larger than {engine.default_rank}, the largest that {engine.label} loads by default",
                fix=f"start it with {engine.rank_option} {fitting or rank}",
                location=job.location_of("lora.dim"),
            )


class ModuleNotServed(ExportRule):
    """The engine is not known to apply adapters to some of the modules. It accepts the adapter and
    leaves those modules as they are.

    This is an error when it applies none of the adapters. The attention of DeepSeek-V3 is such a
    case in vLLM: it reads the weight of `kv_b_proj` and never calls it.

    Bad: `linear_kv_up_proj` targeted, with `serve = "vllm"`
    Good: modules that the engine serves, or the merged model.
    """

    code = "CL609"
    name = "module-not-served"
    severity = Severity.WARNING

    def check_export(self, job: PlannedJob) -> Iterator[Finding]:
        engine = engine_of(job)
        if engine is None:
            return
        alike: dict[str, list[Linear]] = {}
        for one in exported(job):
            for name in {linear.module.rsplit(".", 1)[-1] for linear in one.modules}:
                alike.setdefault(name, []).extend(one.linears)
        dropped = sorted(alike.keys() - engine.modules)
        if dropped:
            nothing = not alike.keys() & engine.modules
            ours = ", ".join(sorted({linear.last_name for name in dropped for linear in alike[name]}))
            yield self.found(
                f"{engine.label} is not known to apply adapters to {_with_reasons(dropped, engine)}"
                + (", and to no other of this job" if nothing else ""),
                severity=Severity.ERROR if nothing else Severity.WARNING,
                fix=f"leave out {ours}, or serve the merged model",
                details=[place for name in dropped for place in places(alike[name])],
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
        if job.serve and engine_of(job) is None:
            known = engines.names()
            yield self.found(
                f"there is no profile of the engine '{job.serve}'{nearest(job.serve, known)}",
                fix=f"known: {', '.join(known)}",
                location=job.location_of("serve"),
            )


def _with_reasons(names: Iterable[str], engine: Engine) -> str:
    """Write names of linears, each group with what the engine does there."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(engine.not_applied.get(name, ""), []).append(name)
    return ", ".join(", ".join(known) + (f" ({reason})" if reason else "") for reason, known in alike.items())


def _one_sided(job: PlannedJob) -> dict[tuple[str, str], list[int]]:
    """Return (adapted names, names without an adapter) -> the layers whose experts have these."""
    # By layer, because a pattern may adapt every projection, but each in other layers.
    have: dict[int | None, set[str]] = {}
    lack: dict[int | None, set[str]] = {}
    for one in job.linears:
        if one.place is Place.EXPERTS:
            names = {name.rsplit(".", 1)[-1] for name in one.names}
            (have if one.placement else lack).setdefault(one.layer, set()).update(names)
    found: dict[tuple[str, str], list[int]] = {}
    for layer in have.keys() & lack.keys():
        missing = lack[layer] - have[layer]
        if missing and layer is not None:
            found.setdefault((", ".join(sorted(have[layer])), ", ".join(sorted(missing))), []).append(layer)
    return found
