"""`Opening`: the thing that the interface is opened on, a job to plan or a saved plan or snapshot.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clora_inspect.config.job_name import SavedFile, known_names, meaning_of
from clora_inspect.config.jobs import layouts_of
from clora_inspect.tui.job.plan_request import PlanRequest, request_of, request_of_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.config.settings import JobTable
    from clora_inspect.job.finding import Location
    from clora_inspect.job.plan import JobPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """One job on one layout, or one saved file."""

    name: str
    layout_name: str = ""
    path: Path | None = None
    """A saved plan or snapshot; None for a job that is still to be planned."""
    job: ConfiguredJob | None = None
    siblings: tuple[ConfiguredJob, ...] = ()
    """The job on all its layouts."""
    configuration: Configuration | None = None

    def request(self, plan: JobPlan | None) -> PlanRequest | None:
        """Return the job as it is planned; None for a saved file that was not read yet.

        `plan` is the content of the file; it is not needed for a job.
        """
        if self.job is not None:
            configuration = self.job.configuration
            return request_of(self.job.job, str(configuration.root) if configuration else "", self.job.full_workload)
        return request_of_plan(plan) if plan is not None else None

    @property
    def gpu_memory_gib(self) -> float | None:
        """The memory of one GPU of the job; None where nothing says it."""
        return self.job.gpu_memory_gib if self.job is not None else None

    @property
    def location_of(self) -> Callable[[str], Location | None]:
        """A function from a key of the job to the line of the configuration that sets it."""
        return self.job.location_of if self.job is not None else lambda _: None

    def on_layout(self, job: ConfiguredJob) -> Opening:
        """Return the opening of the same job on another of its layouts."""
        return replace(self, job=job, layout_name=job.layout_name)


@dataclass(frozen=True, slots=True)
class Choice:
    """One name that can be opened, with a description."""

    name: str
    words: str


def choices(configuration: Configuration | None) -> list[Choice]:
    """Return the names that can be opened: configured jobs, then built-in architectures."""
    jobs = configuration.settings.jobs if configuration is not None else {}
    return [
        Choice(name, _layouts_in_words(jobs[name]) if name in jobs else "built-in architecture")
        for name in known_names(configuration)
    ]


def opening_of(name: str, configuration: Configuration | None) -> Opening:
    """Return the opening for a name. `config.job_name` decides what the name means.

    Raises:
        CloraError: no job or file has this name; the message has the nearest names.
    """
    meaning = meaning_of(name, configuration)
    if isinstance(meaning, SavedFile):
        return opening_of_file(meaning.path, configuration)
    return opening_of_job(meaning.meant[0], meaning.layouts, configuration)


def opening_of_file(path: Path, configuration: Configuration | None) -> Opening:
    """Return the opening of a saved plan or a snapshot. The file is read later."""
    return Opening(name=path.name, path=path, configuration=configuration)


def opening_of_job(
    job: ConfiguredJob, siblings: tuple[ConfiguredJob, ...], configuration: Configuration | None
) -> Opening:
    """Return the opening of a job on one layout; `siblings` are the job on all its layouts."""
    return Opening(
        name=job.name,
        layout_name=job.layout_name if job.configuration is not None else "",
        job=job,
        siblings=siblings,
        configuration=configuration,
    )


def _layouts_in_words(table: JobTable) -> str:
    count = len(layouts_of(table))
    return f"configured, {count} layout{'' if count == 1 else 's'}"
