"""What JOB means: a configured job by name, `JOB/LAYOUT`, or anything else that can be planned;
with what options change of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.cli.options.job import JobRequest
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration


def chosen_jobs(
    configuration: Configuration, names: Sequence[str], layout: str | None = None, request: JobRequest | None = None
) -> list[ConfiguredJob]:
    """The jobs called `names` on all their layouts, or on the one called `layout`; all configured
    ones when no name is given.

    Raises:
        UsageError: no job is configured, and none is named.
        ConfigError: a name that means nothing, or a layout that the job does not have.
    """
    from clora_inspect.config.jobs import configured_jobs

    if not names:
        if not configuration.settings.jobs:
            where = configuration.document.name
            raise click.UsageError(f"no job is configured ({where}). Write one with: clora-inspect config init")
        found = configured_jobs(configuration, (), layout)
    else:
        found = [job for name in dict.fromkeys(names) for job in _called(configuration, name, layout)]
    if request is None:
        return found
    from clora_inspect.cli.job.job_changes import with_options

    return [with_options(job, request, configuration) for job in found]


def one_job(configuration: Configuration, request: JobRequest, display: Display) -> ConfiguredJob:
    """The one job on one layout that `request` is about. Of several layouts the first is taken, and
    that is said.

    Raises:
        UsageError: no JOB, and the configuration neither has a default nor one job alone.
        ConfigError: a name that means nothing, or a layout that the job does not have.
        CloraError: a layout or a LoRA that cannot be.
    """
    from clora_inspect.cli.job.job_changes import with_options
    from clora_inspect.cli.stdio.narration import narrate

    name = request.name or _default(configuration)
    found = _called(configuration, name, request.layout_name)
    first = found[0]
    if request.layout_name and first.configuration is None:
        raise click.UsageError(
            f"--layout {request.layout_name}: {name} is no configured job, so it has no layouts. Say --tp, --pp, ... instead."
        )
    job = with_options(first, request, configuration)
    if len(found) > 1 and not display.quiet:
        others = ", ".join(other.argument for other in found[1:])
        narrate(f"{job.argument}, the first of {len(found)} layouts; others: {others}")
    elif job.configuration is not None and not display.quiet:
        narrate(f"{job.argument}, as configured in {configuration.document.name}")
    return job


def _default(configuration: Configuration) -> str:
    """The JOB that is meant when none is named.

    Raises:
        UsageError: there is none, or there are several.
    """
    jobs = configuration.settings.jobs
    if configuration.settings.default:
        return configuration.settings.default
    if len(jobs) == 1:
        return next(iter(jobs))
    if not jobs:
        raise click.UsageError("JOB is missing: name a model, for example llama3-8b, or a file.")
    raise click.UsageError(
        f"JOB is missing, and {len(jobs)} are configured ({', '.join(jobs)}): name one, or write `default = ...` into {configuration.document.name}."
    )


def _called(configuration: Configuration, name: str, layout: str | None) -> list[ConfiguredJob]:
    """What `name` means, the configured jobs first.

    Raises:
        ConfigError: nothing.
    """
    from clora_inspect.config.errors import ConfigError
    from clora_inspect.config.jobs import ad_hoc_job, configured_jobs
    from clora_inspect.job.job import Job
    from clora_inspect.sources import architectures
    from clora_inspect.sources.nearest import nearest

    jobs = configuration.settings.jobs
    job, slash, of_job = name.rpartition("/")
    if name in jobs:
        return configured_jobs(configuration, [name], layout)
    if slash and job in jobs:
        return configured_jobs(configuration, [job], of_job)
    is_word = not (":" in name or slash or Path(name).suffix or Path(name).exists())
    if jobs and is_word and not architectures.path_of(name):
        raise ConfigError(
            f"'{name}' is no configured job, no built-in architecture and no file{nearest(name, (*jobs, *architectures.names()))} "
            f"Configured: {', '.join(jobs)}."
        )
    # What is wrong with a name that stands for no model is told when the model is looked for.
    return [ad_hoc_job(Job(model=name), layout_name=layout)]
