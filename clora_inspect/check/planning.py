"""Plan configured jobs, or take their plans from the cache. A job that cannot be planned gives a
finding, so that the other jobs are still checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from clora.errors import (
    CloraError,
    GeometryError,
    LayoutError,
    ModelError,
    NotAdaptableError,
    TargetError,
)
from clora_inspect.check.cache import FOLDER, Cache
from clora_inspect.config.working_folder import working_in
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.plan import JobPlan
from clora_inspect.rules.environment import ModelBuildFailed
from clora_inspect.rules.geometry.rank_size import RankNotDivisible
from clora_inspect.rules.parallel_layout.sharding import LayoutNotDivisible
from clora_inspect.rules.surgery.adapted_modules import UnsupportedModule
from clora_inspect.sources.model_name import runs_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Finding
    from clora_inspect.job.job import Job
    from clora_inspect.job.workload import Workload
    from clora_inspect.rules.base import Rule

FAILURES: tuple[tuple[type[CloraError], type[Rule], str], ...] = (
    (LayoutError, LayoutNotDivisible, "layout"),
    (GeometryError, RankNotDivisible, "lora.dim"),
    (NotAdaptableError, UnsupportedModule, "lora.target_modules"),
    (TargetError, UnsupportedModule, "lora.target_modules"),
    (CloraError, ModelBuildFailed, "model"),
)
"""Error that planning raises, the rule that reports it, and the key of the job that is to blame.
The first entry that fits counts, so that the base class comes last.
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """The outcome of planning one job."""

    job: ConfiguredJob
    plan: JobPlan | None
    failure: Finding | None = None
    """Why there is no plan."""
    exit_code: ExitCode = ExitCode.OK
    """Exit status of a check because of `failure`."""
    error: CloraError | None = None
    """The error behind `failure`, for commands that can do nothing without a plan."""
    cached: bool = False


def plan_configured(
    job: ConfiguredJob,
    cache: Cache | None,
    announce: Callable[[str], None] = lambda _: None,
    workload: Workload | None = None,
) -> Planned:
    """Plan `job`. Call it inside `working_in(job.folder)`: the job's paths are relative to it.

    `announce` gets a sentence before a model is planned that takes long. A plan whose costs with
    `workload` cannot be counted says why.
    """
    key = cache.plan_key(job.job, workload) if cache else None
    known = cache.get(key, JobPlan) if cache else None
    if known is not None:
        return Planned(job, known, cached=True)
    # This import brings in torch, which takes seconds.
    from clora_inspect.pipeline import slow_notice

    notice = slow_notice(job.job)
    if notice is not None:
        announce(f"{job.label}: {notice}")
    try:
        plan = _plan(job.job, workload)
    except CloraError as error:
        return _failed(job, error)
    if cache:
        # The plan's own findings come from rules, and the code of rules is not in its key.
        cache.put(key, msgspec.structs.replace(plan, findings=()))
    return Planned(job, plan)


def _plan(job: Job, workload: Workload | None) -> JobPlan:
    """Return the plan with what the job costs, or with the reason why that cannot be counted."""
    from clora_inspect.cost.settings import CostError
    from clora_inspect.pipeline import plan_job

    try:
        return plan_job(job, workload)
    except CostError as error:
        return msgspec.structs.replace(plan_job(job), uncounted=str(error))


def plan_all(
    configuration: Configuration,
    jobs: Sequence[ConfiguredJob],
    *,
    cache: bool,
    code: bool = True,
    notify: Callable[[str], None] = lambda _: None,
    announce: Callable[[str], None] = lambda _: None,
) -> list[Planned]:
    """Plan `jobs` one after the other, those that run code only if `code` is true. `notify` gets
    the name of each before it is planned, and `announce` a sentence about each that takes long.
    """
    plans = cache_of(configuration, wanted=cache)
    planned = []
    for job in jobs:
        notify(f"planning {job.label}")
        with working_in(job.folder):
            is_refused = not code and runs_code(job.job.model)
            planned.append(refused(job) if is_refused else plan_configured(job, plans, announce))
    return planned


def cache_of(configuration: Configuration, *, wanted: bool) -> Cache | None:
    """Return the cache beside `configuration`; None when the settings or `wanted` switch it off."""
    settings = configuration.settings.check
    return Cache(configuration.root / FOLDER, callables=settings.cache_callables) if wanted and settings.cache else None


def refused(job: ConfiguredJob) -> Planned:
    """Return the outcome of a job that `--no-code` keeps from running."""
    return _failed(
        job, ModelError(f"{job.job.model} is a function, and --no-code runs no code\nrun it without --no-code")
    )


def _failed(job: ConfiguredJob, error: CloraError) -> Planned:
    _, rule, key = next(failure for failure in FAILURES if isinstance(error, failure[0]))
    # Errors about a model have what to do on lines of their own.
    message, _, fix = str(error).partition("\n")
    finding = rule.found(message, fix=fix or None, location=job.location_of(key))
    finding = msgspec.structs.replace(finding, job=job.name, layout=job.layout_name)
    return Planned(job, None, finding, _exit_code(error), error)


def _exit_code(error: CloraError) -> ExitCode:
    # A model that is not there is a mistake in the job. What a function does is a finding.
    return ExitCode.USAGE if isinstance(error, ModelError) else ExitCode.FOUND
