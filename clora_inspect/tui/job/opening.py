"""What the interface is opened on: a job to plan, or a plan that was saved. Pure data, and what a
name can mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clora.errors import ModelError
from clora_inspect.config.jobs import ConfiguredJob, ad_hoc_job, configured_jobs
from clora_inspect.job.job import Job
from clora_inspect.sources import architectures
from clora_inspect.sources.nearest import nearest
from clora_inspect.tui.job.plan_request import PlanRequest, request_of, request_of_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Location
    from clora_inspect.job.plan import JobPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """One job on one layout, or one file."""

    name: str
    layout_name: str = ""
    path: Path | None = None
    """A saved plan or snapshot; None for a job that is planned here."""
    job: ConfiguredJob | None = None
    siblings: tuple[ConfiguredJob, ...] = ()
    """The job on all its layouts."""
    configuration: Configuration | None = None

    def request(self, plan: JobPlan | None) -> PlanRequest | None:
        """What to ask of the planner; None for a file that was not read yet."""
        if self.job is not None:
            configuration = self.job.configuration
            return request_of(self.job.job, str(configuration.root) if configuration else "")
        return request_of_plan(plan) if plan is not None else None

    @property
    def location_of(self) -> Callable[[str], Location | None]:
        """Where a key of the job is written."""
        return self.job.location_of if self.job is not None else lambda _: None

    def on_layout(self, job: ConfiguredJob) -> Opening:
        """The same on another layout of the job."""
        return replace(self, job=job, layout_name=job.layout_name)


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that can be opened."""

    name: str
    words: str


def choices(configuration: Configuration | None) -> list[Choice]:
    """The configured jobs, then the built-in architectures."""
    jobs = configuration.settings.jobs if configuration else {}
    configured = [
        Choice(name, f"configured, {len(table.layouts) or 1} layout{'s' if len(table.layouts) > 1 else ''}")
        for name, table in jobs.items()
    ]
    return configured + [Choice(name, "built-in architecture") for name in architectures.names() if name not in jobs]


def opening_of(name: str, configuration: Configuration | None) -> Opening:
    """What `name` means: a saved plan or snapshot, a configured job (`JOB` or `JOB/LAYOUT`), or a
    model.

    Raises:
        CloraError: it means nothing; the message has the nearest names.
    """
    path = Path(name)
    if path.suffix == ".json" and path.is_file() and path.name != "config.json":
        return Opening(name=path.name, path=path, configuration=configuration)
    if configuration is not None:
        job, slash, layout = name.rpartition("/")
        known = configuration.settings.jobs
        if name in known or (slash and job in known):
            jobs = configured_jobs(configuration, [name if name in known else job])
            chosen = next((each for each in jobs if name not in known and each.layout_name == layout), jobs[0])
            return _of_job(chosen, tuple(jobs), configuration)
    if architectures.path_of(name) or ":" in name or path.exists():
        return _of_job(ad_hoc_job(Job(model=name)), (), configuration)
    have = [choice.name for choice in choices(configuration)]
    raise ModelError(f"'{name}' is no configured job, no architecture and no file{nearest(name, have)}")


def opening_of_job(job: ConfiguredJob, siblings: tuple[ConfiguredJob, ...] = ()) -> Opening:
    """A job that the command line made."""
    return _of_job(job, siblings, job.configuration)


def _of_job(job: ConfiguredJob, siblings: tuple[ConfiguredJob, ...], configuration: Configuration | None) -> Opening:
    return Opening(
        name=job.name,
        layout_name=job.layout_name if job.configuration is not None else "",
        job=job,
        siblings=siblings,
        configuration=configuration,
    )
