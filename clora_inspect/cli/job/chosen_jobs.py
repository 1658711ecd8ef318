"""Find the jobs that a command is about, and apply the options of the command line to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.config.job_name import NamedJob, SavedFile
    from clora_inspect.config.job_request import JobRequest
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration


def chosen_jobs(
    configuration: Configuration, names: Sequence[str], layout: str | None = None, request: JobRequest | None = None
) -> list[ConfiguredJob]:
    """Return the jobs called `names` on all their layouts, or on the one called `layout`.

    Without names these are all configured jobs. The options of `request` are applied to each.

    Raises:
        UsageError: no job is configured and none is named.
        CloraError: a name is neither a job nor a model, or a job has no such layout.
    """
    from clora_inspect.config.jobs import configured_jobs

    if not names:
        if not configuration.settings.jobs:
            where = configuration.document.name
            raise click.UsageError(f"no job is configured ({where}). Write one with: clora-inspect config init")
        found = configured_jobs(configuration, (), layout)
    else:
        # A name that was typed twice is one job.
        found = [job for name in dict.fromkeys(names) for job in _jobs_called(configuration, name, layout, request)]
    if request is None:
        return found
    from clora_inspect.config.job_changes import with_options

    return [with_options(job, request, configuration) for job in found]


def one_job(configuration: Configuration, request: JobRequest, display: Display) -> ConfiguredJob:
    """Return the one job on one layout that `request` is about.

    A job with several layouts gives the first one, and a message on stderr names the others.

    Raises:
        UsageError: JOB is left out and there is no default, or it is a saved file, or `--layout`
            is given for a model that has no layouts.
        CloraError: the name means nothing, the job has no such layout, or an option has a value
            that cannot be.
    """
    from clora_inspect.cli.stdio.narration import narrate

    name = request.name or _default_name(configuration)
    named = _named_job(configuration, name, request)
    job = first_with_options(name, named, request, configuration)
    if len(named.meant) > 1 and not display.quiet:
        others = ", ".join(other.argument for other in named.meant[1:])
        narrate(f"{job.argument}, the first of {len(named.meant)} layouts; others: {others}")
    elif job.configuration is not None and not display.quiet:
        narrate(f"{job.argument}, as configured in {configuration.document.name}")
    return job


def first_with_options(name: str, named: NamedJob, request: JobRequest, configuration: Configuration) -> ConfiguredJob:
    """Return the first job that `name` means, changed by the options of `request`.

    Raises:
        UsageError: `--layout` is given for a model that has no layouts.
        CloraError: an option has a value that cannot be.
    """
    from clora_inspect.config.job_changes import with_options

    _refuse_layout_of_no_job(name, named, request.layout_name)
    return with_options(named.meant[0], request, configuration)


def _refuse_layout_of_no_job(name: str, named: NamedJob, layout: str | None) -> None:
    if layout and not named.layouts:
        raise click.UsageError(
            f"--layout {layout}: {name} is no configured job, so it has no layouts. Use --tp, --pp, ... instead."
        )


def _jobs_called(
    configuration: Configuration, name: str, layout: str | None, request: JobRequest | None
) -> Sequence[ConfiguredJob]:
    """Return what `name` means beside other names.

    A model that is not there, and a saved file, are reported when they are planned, so that they do
    not stop the other jobs.
    """
    from clora_inspect.config.job_name import SavedFile, meaning_of
    from clora_inspect.config.job_request import JobRequest
    from clora_inspect.config.jobs import ad_hoc_job
    from clora_inspect.job.job import Job

    run_lora = (request or JobRequest()).run_lora
    meaning = meaning_of(name, configuration, layout, must_be_found=False, run_lora=run_lora)
    if isinstance(meaning, SavedFile):
        return [ad_hoc_job(Job(model=name), layout_name=layout)]
    _refuse_layout_of_no_job(name, meaning, layout)
    return meaning.meant


def _named_job(configuration: Configuration, name: str, request: JobRequest) -> NamedJob:
    from clora_inspect.config.job_name import SavedFile, meaning_of

    meaning = meaning_of(name, configuration, request.layout_name, run_lora=request.run_lora)
    if isinstance(meaning, SavedFile):
        raise _not_a_job(name, meaning)
    return meaning


def _not_a_job(name: str, saved: SavedFile) -> click.UsageError:
    if saved.holds == "saved plan":
        return click.UsageError(f"{name} is a saved plan, and this command makes its own. Name a job or a model.")
    return click.UsageError(
        f"{name} is a snapshot: it has adapters and no model. "
        f"Look at it: clora-inspect tui {name}. Compare it with a job: clora-inspect diff {name} JOB."
    )


def _default_name(configuration: Configuration) -> str:
    """Return the JOB that is meant when none is named.

    Raises:
        UsageError: no job is configured, or several are and none is the default.
    """
    jobs = configuration.settings.jobs
    if configuration.settings.default:
        return configuration.settings.default
    if len(jobs) == 1:
        return next(iter(jobs))
    if not jobs:
        raise click.UsageError("JOB is missing: name a model, for example llama3-8b, or a file.")
    raise click.UsageError(
        f"JOB is missing, and {len(jobs)} are configured ({', '.join(jobs)}): "
        f"name one, or write `default = ...` into {configuration.document.name}."
    )
