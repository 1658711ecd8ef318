"""JOBs of commands that work on several: configured ones by name, `JOB/LAYOUT`, or anything else that can be planned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration


def chosen_jobs(configuration: Configuration, names: Sequence[str], layout: str | None = None) -> list[ConfiguredJob]:
    """The jobs called `names` on all their layouts; all configured ones when no name is given.

    Raises:
        UsageError: no job is configured, and none is named.
        ConfigError: a name that means nothing, or a layout that the job does not have.
    """
    from clora_inspect.config.jobs import configured_jobs

    if not names:
        if not configuration.settings.jobs:
            where = configuration.document.name
            raise click.UsageError(f"no job is configured ({where}). Write one with: clora-inspect config init")
        return configured_jobs(configuration, (), layout)
    return [job for name in dict.fromkeys(names) for job in _called(configuration, name, layout)]


def _called(configuration: Configuration, name: str, layout: str | None) -> list[ConfiguredJob]:
    from clora_inspect.config.jobs import ad_hoc_job, configured_jobs
    from clora_inspect.job import Job
    from clora_inspect.sources import architectures

    jobs = configuration.settings.jobs
    job, slash, of_job = name.rpartition("/")
    if slash and job in jobs:
        return configured_jobs(configuration, [job], of_job)
    if name not in jobs and (architectures.path_of(name) or ":" in name or Path(name).exists()):
        return [ad_hoc_job(Job(model=name), layout_name=layout)]
    return configured_jobs(configuration, [name], layout)
