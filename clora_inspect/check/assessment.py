"""`Assessment`: all that a check needs to know of one plan. It is kept, so that an unchanged job
costs neither a plan nor a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.check.cache import hash_of_files, hashed
from clora_inspect.check.planning import plan_configured
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.finding import Finding
from clora_inspect.job.plan import Totals
from clora_inspect.rules import run_rules
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.snapshot.record import Snapshot, take

if TYPE_CHECKING:
    from clora_inspect.check.cache import Cache
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.rules.selection import Selection


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """One plan, looked at."""

    totals: Totals
    snapshot: Snapshot
    """The adapters as they are now."""
    findings: tuple[Finding, ...]
    """What the selected rules found in the plan."""


@dataclass(frozen=True, slots=True)
class Assessed:
    """What came of one job."""

    job: ConfiguredJob
    assessment: Assessment | None
    """None where no plan could be made."""
    failure: Finding | None = None
    exit_code: ExitCode = ExitCode.OK
    cached: bool = False
    """Whether nothing was built."""


def assess_configured(
    job: ConfiguredJob, configuration: Configuration, selection: Selection, cache: Cache | None
) -> Assessed:
    """Plan `job` and look at its plan, or know both from before. Call inside `working_in` its
    folder.
    """
    key = _key(job, configuration, selection, cache)
    known = cache.get(key, Assessment) if cache else None
    if known is not None:
        return Assessed(job, known, cached=True)
    planned = plan_configured(job, cache)
    if planned.plan is None:
        return Assessed(job, None, planned.failure, planned.exit_code)
    made = assess(job, planned.plan, configuration, selection)
    if cache:
        cache.put(key, made)
    return Assessed(job, made, cached=planned.cached)


def assess(job: ConfiguredJob, plan: JobPlan, configuration: Configuration, selection: Selection) -> Assessment:
    """Run the selected rules on `plan`."""
    findings = run_rules(planned_job_of(job, plan, configuration), selection)
    return Assessment(
        totals=plan.totals, snapshot=take(plan, job.name), findings=tuple(_of_job(finding, job) for finding in findings)
    )


def planned_job_of(job: ConfiguredJob, plan: JobPlan, configuration: Configuration) -> PlannedJob:
    """What the rules look at."""
    return PlannedJob(
        plan=plan,
        targets_written=job.job.targets_written,
        implementation=job.implementation,
        serve=job.serve,
        export=job.export,
        gpu_memory_gib=job.gpu_memory_gib,
        settings=configuration.settings.rules,
        location_of=job.location_of,
    )


def _of_job(finding: Finding, job: ConfiguredJob) -> Finding:
    """`finding` with the job it belongs to; the job's model in the configuration where the rule
    knew no better place.
    """
    location = finding.location or job.location_of("model")
    return msgspec.structs.replace(finding, job=job.name, layout=job.layout_name, location=location)


def _key(job: ConfiguredJob, configuration: Configuration, selection: Selection, cache: Cache | None) -> str | None:
    """The hash of everything that can change an assessment: the plan, the rules, and the
    configuration, whose lines findings point at.

    None for what is not kept: rules about Megatron-Bridge look at the one that is installed.
    """
    plan_key = cache.plan_key(job.job) if cache else None
    if plan_key is None or job.implementation != "clora":
        return None
    return hashed(
        {
            "plan": plan_key,
            "job": job.key,
            "configuration": [configuration.document.name, configuration.document.text],
            "settings": msgspec.to_builtins(configuration.settings),
            "select": [selection.select, selection.ignore, selection.extend_select],
            "code": _code(),
        }
    )


@cache
def _code() -> str:
    """The source of the rules and of everything that they might ask."""
    own = Path(__file__).parent.parent
    library = own.parent / "clora"
    rules = (
        path
        for folder in ("rules", "engines", "job", "snapshot")
        for path in (own / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    return hash_of_files(sorted([*library.glob("*.py"), *own.glob("*.py"), *rules, Path(__file__)]))
