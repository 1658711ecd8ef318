"""Find what the word JOB means. Pure.

The command line and the interface both ask `meaning_of`, so that a name means the same in both. It
is the first of these that fits:

    plan.json, train.json.new   a saved plan or a snapshot, known by what is in the file
    JOB, JOB/LAYOUT             a job of the configuration
    llama3-8b, DIR, FN, ...     a model that no configuration names, see `sources.model_name`; a run
                                of Megatron-Bridge has a layout and a LoRA as well
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clora.errors import DeviceError, LayoutError, ModelError
from clora.folders.regular_file import read_regular_file
from clora_inspect.config.errors import ConfigError
from clora_inspect.config.jobs import ConfiguredJob, ad_hoc_job, configured_jobs, layouts_of
from clora_inspect.config.run_job import RunLoRA, job_of_run
from clora_inspect.job.job import Job
from clora_inspect.job.plan import LARGEST_SAVED_FILE, decode
from clora_inspect.snapshot import record
from clora_inspect.sources import architectures
from clora_inspect.sources.model_name import config_file, in_home, looks_like_file, run_file
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.record import Snapshot


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file with a saved plan or a snapshot."""

    path: Path
    holds: Literal["saved plan", "snapshot"]
    data: bytes = field(repr=False, compare=False)
    """The content. It was read to tell what the file is, and is not read again."""

    def plan(self) -> JobPlan:
        """Return the saved plan.

        Raises:
            ModelError: it is damaged, or of a newer schema.
        """
        return decode(self.data, str(self.path))

    def snapshot(self) -> Snapshot:
        """Return the snapshot.

        Raises:
            SnapshotError: it is damaged, edited by hand, or of a newer schema.
        """
        return record.decode(self.data, str(self.path))


@dataclass(frozen=True, slots=True)
class NamedJob:
    """A job that can be planned: a configured one, or a model that no configuration names."""

    meant: tuple[ConfiguredJob, ...]
    """The job on the layout that was named, or on each of its layouts. Never empty."""
    layouts: tuple[ConfiguredJob, ...] = ()
    """A configured job on all its layouts; empty for a model that is not configured."""


def meaning_of(
    name: str,
    configuration: Configuration | None,
    layout: str | None = None,
    *,
    must_be_found: bool = True,
    run_lora: RunLoRA = RunLoRA.AS_IT_IS,
) -> SavedFile | NamedJob:
    """Return what `name` means.

    Args:
        name: what the user typed as JOB.
        configuration: the configured jobs; None when there is no configuration.
        layout: the name of the one layout that is meant. `JOB/LAYOUT` in `name` goes before it. A
            model that is not configured has no layouts to choose from: it takes this as the name
            of its only one.
        must_be_found: whether a model that is not there is an error here. A check takes it for a
            job that cannot be planned, which is a finding beside those of the other jobs.
        run_lora: how the LoRA of a run of Megatron-Bridge is read.

    Raises:
        CloraError: `name` means nothing, or the job has no such layout; the message has the
            nearest names.
    """
    name = in_home(name)
    saved = saved_file(name)
    if saved is not None:
        return saved
    if configuration is not None:
        jobs = configuration.settings.jobs
        job, slash, layout_in_name = name.rpartition("/")
        if name in jobs:
            return _configured(configuration, name, layout)
        if slash and job in jobs:
            return _configured(configuration, job, layout_in_name)
    _check_is_no_mistyped_job(name, configuration)
    if must_be_found:
        _check_is_found(name)
    return NamedJob((ad_hoc_job(_job_of(name, run_lora, must_be_found=must_be_found), layout_name=layout),))


def _job_of(name: str, run_lora: RunLoRA, *, must_be_found: bool) -> Job:
    path = run_file(name)
    if path is None:
        return Job(model=name)
    try:
        return job_of_run(name, path, run_lora)
    except (ModelError, LayoutError, DeviceError):
        if must_be_found:
            raise
        # Planning raises the same error.
        return Job(model=name)


def saved_file(name: str) -> SavedFile | None:
    """Return the saved plan or the snapshot that `name` means; None when it means something else.

    Raises:
        ModelError: the file cannot be read.
    """
    path = Path(name)
    # A snapshot that waits to be reviewed is called `train.json.new`.
    if path.suffix not in (".json", ".new") or not _exists(name) or path.is_dir():
        return None
    try:
        # PowerShell writes a mark of the encoding at the beginning.
        data = read_regular_file(path, LARGEST_SAVED_FILE).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror or error}.") from None
    # Looked through once: a plan may have a hundred megabytes.
    top = record.top_level(data)
    # A Hugging Face `config.json` may have a `schema` as well, but it names its `model_type`.
    if "schema" not in top or bytes(top.get("model_type", b"null")) != b"null":
        return None
    # A damaged file of ours counts as a plan: reading it then says what a plan must have.
    return SavedFile(path, "snapshot" if record.is_snapshot(top.keys()) else "saved plan", data)


def known_names(configuration: Configuration | None) -> list[str]:
    """Return the names that can be listed: the configured jobs, then the built-in architectures."""
    return list(dict.fromkeys([*(configuration.settings.jobs if configuration else ()), *architectures.names()]))


def _configured(configuration: Configuration, job: str, layout: str | None) -> NamedJob:
    layouts = tuple(configured_jobs(configuration, [job]))
    return NamedJob(layouts if layout is None else tuple(configured_jobs(configuration, [job], layout)), layouts)


def _check_is_no_mistyped_job(name: str, configuration: Configuration | None) -> None:
    """Refuse a word that is neither a model nor a job where jobs are configured.

    Raises:
        ConfigError: with the nearest names of jobs, layouts and architectures.
    """
    tables = configuration.settings.jobs if configuration is not None else {}
    if not tables or looks_like_file(name) or architectures.path_of(name) or _exists(name):
        return
    with_layouts = [f"{job}/{layout}" for job, table in tables.items() for layout in layouts_of(table)]
    near = nearest(name, [*known_names(configuration), *(with_layouts if "/" in name else ())])
    raise ConfigError(
        f"'{name}' is no configured job, no built-in architecture and no file{near} Configured: {', '.join(tables)}."
    )


def _check_is_found(name: str) -> None:
    try:
        config_file(name)
    except OSError as error:  # the name is too long for a file
        raise ModelError(f"'{name}' cannot be looked up: {error.strerror or error}.") from None


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # the name is too long for a file
        return False
