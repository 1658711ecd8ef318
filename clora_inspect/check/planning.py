"""Configured jobs -> plans: from the cache where nothing changed, else built; and a job that cannot
be is a finding, not the end.
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
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.plan import JobPlan
from clora_inspect.sources.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration

FAILURES: tuple[tuple[type[CloraError], str, str, str], ...] = (
    (LayoutError, "CL306", "layout-not-divisible", "layout"),
    (GeometryError, "CL202", "rank-not-divisible", "lora.dim"),
    (NotAdaptableError, "CL405", "unsupported-module", "lora.target_modules"),
    (TargetError, "CL405", "unsupported-module", "lora.target_modules"),
    (ModelError, "CL803", "model-build-failed", "model"),
    (CloraError, "CL803", "model-build-failed", "model"),
)
"""What planning raises -> the rule that it is reported under, and the key of the job that it is
about.
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """What came of planning one job."""

    job: ConfiguredJob
    plan: JobPlan | None
    failure: Finding | None = None
    exit_code: ExitCode = ExitCode.OK
    """What the failure is worth: a model that cannot be found or built is not a finding among
    others.
    """
    error: CloraError | None = None
    """What was raised, for commands that can do nothing without a plan."""
    cached: bool = False


def plan_configured(job: ConfiguredJob, cache: Cache | None) -> Planned:
    """Plan `job`. Call inside `working_in` its folder."""
    key = cache.plan_key(job.job) if cache else None
    known = cache.get(key, JobPlan) if cache else None
    if known is not None:
        return Planned(job, known, cached=True)
    # torch comes in with this import.
    from clora_inspect.pipeline import plan_job

    try:
        plan = plan_job(job.job)
    except CloraError as error:
        return _failed(job, error)
    if cache:
        # Rules look at a plan every time; what it said of itself when it was made is not kept.
        cache.put(key, msgspec.structs.replace(plan, findings=()))
    return Planned(job, plan)


def plan_all(
    configuration: Configuration,
    jobs: Sequence[ConfiguredJob],
    *,
    cache: bool,
    notify: Callable[[str], None] = lambda _: None,
) -> list[Planned]:
    """Plan `jobs`, one after the other. `notify` is told which one it is."""
    plans = cache_of(configuration, wanted=cache)
    planned = []
    for job in jobs:
        notify(f"planning {job.label}")
        with working_in(job.folder):
            planned.append(plan_configured(job, plans))
    return planned


def cache_of(configuration: Configuration, *, wanted: bool) -> Cache | None:
    """The cache that lies beside `configuration`; None where it, or the user, wants none."""
    settings = configuration.settings.check
    return Cache(configuration.root / FOLDER, callables=settings.cache_callables) if wanted and settings.cache else None


def _failed(job: ConfiguredJob, error: CloraError) -> Planned:
    _, code, name, key = next(failure for failure in FAILURES if isinstance(error, failure[0]))
    message, _, fix = str(error).partition("\n")
    finding = Finding(
        code=code,
        name=name,
        severity=Severity.ERROR,
        message=message,
        help=fix or None,
        job=job.name,
        layout=job.layout_name,
        location=job.location_of(key),
    )
    return Planned(job, None, finding, _worth(error), error)


def _worth(error: CloraError) -> ExitCode:
    if isinstance(error, BuildError):
        return ExitCode.BUILD
    return ExitCode.USAGE if isinstance(error, ModelError) else ExitCode.FOUND
