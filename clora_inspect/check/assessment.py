"""`Assessment`: all that a check needs to know about one plan. It is cached, so that an unchanged
job costs neither a plan nor a run of the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import DeviceError
from clora_inspect.bridge.errors import BridgeSurgeryError
from clora_inspect.check.cache import hash_of_files, hashed
from clora_inspect.check.planning import plan_configured
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.finding import Finding
from clora_inspect.job.plan import Totals
from clora_inspect.rules import run_rules
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.selection import Selection
from clora_inspect.snapshot.record import Snapshot, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.check.cache import Cache
    from clora_inspect.check.planning import Planned
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.job.workload import Workload


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a plan that a check keeps. The plan itself is many times larger."""

    totals: Totals
    snapshot: Snapshot
    """The adapters as they are now."""
    findings: tuple[Finding, ...]
    """Findings of the selected rules."""
    config: dict[str, Any]
    """The fields of the model's config that are not the default."""
    overrides: tuple[str, ...]
    """Names of the fields that the user sets."""


@dataclass(frozen=True, slots=True)
class Assessed:
    """The outcome of assessing one job."""

    job: ConfiguredJob
    assessment: Assessment | None
    """None when the job cannot be planned."""
    failure: Finding | None = None
    """Why the job cannot be planned."""
    exit_code: ExitCode = ExitCode.OK
    cached: bool = False
    """True if the plan or the assessment came from the cache, so that no model was built."""


def assess_configured(
    job: ConfiguredJob,
    configuration: Configuration,
    selection: Selection,
    cache: Cache | None,
    announce: Callable[[str], None] = lambda _: None,
) -> Assessed:
    """Plan `job` and run the selected rules, or take the result from `cache`.

    Call it inside `working_in(job.folder)`, because the job's paths are relative to that folder.
    """
    # It takes longer than the plan, and no rule but those of memory looks at it.
    workload = job.full_workload if job.gpu_memory_gib is not None else None
    key = _key(job, configuration, selection, cache, workload)
    known = cache.get(key, Assessment) if cache else None
    if known is not None:
        return Assessed(job, known, cached=True)
    planned = plan_configured(job, cache, announce, workload)
    if planned.plan is None and isinstance(planned.error, DeviceError | BridgeSurgeryError):
        return _assess_by_source(planned, configuration, selection, cache, workload)
    if planned.plan is None:
        return Assessed(job, None, planned.failure, planned.exit_code)
    made = assess(job, planned.plan, configuration, selection)
    if cache:
        cache.put(key, made)
    return Assessed(job, made, cached=planned.cached)


def _assess_by_source(
    planned: Planned,
    configuration: Configuration,
    selection: Selection,
    cache: Cache | None,
    workload: Workload | None,
) -> Assessed:
    """Assess a job that Megatron-Bridge cannot adapt here: the rules read its faults from its
    source, and look at clora's plan. That it is not installed is no finding.
    """
    job = planned.job
    if job.job.planned_by == "clora":
        return Assessed(job, None, planned.failure, planned.exit_code)
    ours = plan_configured(replace(job, job=replace(job.job, planned_by="clora")), cache, workload=workload)
    if ours.plan is None:
        return Assessed(job, None, ours.failure, ours.exit_code)
    made = assess(job, ours.plan, configuration, selection)
    if isinstance(planned.error, DeviceError):
        return Assessed(job, made)
    return Assessed(job, made, planned.failure, planned.exit_code)


def assess(job: ConfiguredJob, plan: JobPlan, configuration: Configuration, selection: Selection) -> Assessment:
    """Run the selected rules on `plan`."""
    return Assessment(
        totals=plan.totals,
        snapshot=take(plan, job.name),
        findings=findings_of_plan(job, plan, configuration, selection),
        config=plan.model.config or {},
        overrides=tuple(plan.model.overrides or ()),
    )


def findings_of_plan(
    job: ConfiguredJob, plan: JobPlan, configuration: Configuration, selection: Selection
) -> tuple[Finding, ...]:
    """Run the selected rules on `plan`; its findings name the job and the line to look at."""
    found = run_rules(planned_job(job, plan, configuration), selection)
    return tuple(_with_job(finding, job) for finding in found)


def selection_of(configuration: Configuration) -> Selection:
    """Return the rules that the settings select."""
    settings = configuration.settings.check
    return Selection(
        select=tuple(settings.select),
        ignore=tuple(settings.ignore),
        extend_select=tuple(settings.extend_select),
        fail_on=settings.fail_on,
    )


def planned_job(job: ConfiguredJob, plan: JobPlan, configuration: Configuration) -> PlannedJob:
    """Put together what the rules look at."""
    return PlannedJob(
        plan=plan,
        targets_written=job.job.targets_written,
        implementation=job.implementation,
        bridge_release=job.bridge_release,
        serve=job.serve,
        export=job.export,
        gpu_memory_gib=job.gpu_memory_gib,
        settings=configuration.settings.rules,
        location_of=job.location_of,
    )


def _with_job(finding: Finding, job: ConfiguredJob) -> Finding:
    """Add the job to `finding`; without a location it points at the job's model."""
    location = finding.location or job.location_of("model")
    return msgspec.structs.replace(finding, job=job.name, layout=job.layout_name, location=location)


def _key(
    job: ConfiguredJob,
    configuration: Configuration,
    selection: Selection,
    cache: Cache | None,
    workload: Workload | None,
) -> str | None:
    """Hash everything that can change an assessment; None when it must not be kept.

    Besides what the plan depends on these are the selection and settings of the rules, their code,
    the whole text of the configuration, and which keys options and variables set: findings hold
    line numbers of the file, so that an added comment changes them.
    """
    plan_key = cache.plan_key(job.job, workload) if cache else None
    # Rules about Megatron-Bridge read the source of the installed one, which is in no key.
    if plan_key is None or job.implementation != "clora":
        return None
    return hashed(
        {
            "plan": plan_key,
            "job": job.key,
            "configuration": [configuration.document.name, configuration.document.text],
            "not from the file": [sorted(map(repr, keys)) for keys in (configuration.overrides, job.typed)],
            "settings": msgspec.to_builtins(configuration.settings),
            "select": [selection.select, selection.ignore, selection.extend_select],
            "code": _code_hash(),
        }
    )


def assessing_source() -> list[Path]:
    """List our files that can change an assessment and not the plan: rules, what they read, and the
    format of a snapshot.
    """
    package = Path(__file__).parent.parent
    # All files, because the profiles of the engines are JSON.
    files = (
        path
        for folder in ("rules", "engines", "snapshot")
        for path in (package / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    return sorted([*files, Path(__file__)])


@cache
def _code_hash() -> str:
    return hash_of_files(assessing_source())
