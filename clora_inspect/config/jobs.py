"""Make the configured jobs: one for every layout, each with the lines of the configuration that
define it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError
from clora_inspect.config.errors import ConfigError, Problem
from clora_inspect.config.key_path import KeyPath, parsed
from clora_inspect.config.lora_file.reader import NAMES as LORA_NAMES
from clora_inspect.config.lora_file.reader import lora_path, read_lora_file
from clora_inspect.config.settings import JobTable, LoRATable
from clora_inspect.config.working_folder import working_in
from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import BATCH, Workload
from clora_inspect.sources.model_name import BRIDGE, HYBRID, in_home, run_file, shown_name, with_model_class
from clora_inspect.sources.nearest import nearest
from clora_inspect.sources.run.cost import cost_of_run
from clora_inspect.sources.settled import settled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Location

DEFAULT_LAYOUT = "default"
"""Name of the only layout, of one rank, of a job that configures no layouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredJob:
    """One job on one of its layouts."""

    name: str
    layout_name: str
    job: Job
    implementation: ImplementationName = "clora"
    bridge_release: str | None = None
    """The release of Megatron-Bridge that will train it; None for the one installed here."""
    serve: str | None = None
    export: bool = False
    gpu_memory_gib: float | None = None
    workload: Workload = field(default_factory=Workload)
    """The micro-batches of a step, as they are written. Memory is counted for `full_workload`."""
    checkpoint: str | None = None
    """The distributed checkpoint that it will load; None when it names none."""
    configuration: Configuration | None = None
    """The configuration that defines it; None for a job that only the command line defines."""
    lora_key: KeyPath = ()
    """Key of its LoRA: `("lora", "main")`."""
    typed: frozenset[tuple[str, ...]] = frozenset()
    """Fields that the command line set, so that no line defines them: `("layout", "tp")`,
    `("lora", "dim")`, `("checkpoint",)`.
    """

    options: str = ""
    """The options of the command line that changed it, which begin with a space."""
    replaced_batch: str = ""
    """The length of a step in the configuration that the command line has replaced: a field, its
    value and its place.
    """

    @property
    def full_workload(self) -> Workload:
        """The micro-batches of a step: as they are written, and else as the run says.

        A run is a file, which is read only when somebody asks.
        """
        said = {key: value for key, value in self._workload_of_run().items() if not self._sets_workload(key)}
        if self._has_batch:
            said.pop("global_batch_size", None)
        return msgspec.structs.replace(self.workload, **said)

    @property
    def batch_note(self) -> str | None:
        """A sentence on which of two lengths of a step counts; None where only one is written."""
        rows = self._workload_of_run().get("global_batch_size") if self._has_batch else None
        lost = self.replaced_batch or (f"global_batch_size = {rows} of the run" if rows is not None else "")
        kept = [f"{name} = {value}" for name in BATCH if (value := getattr(self.full_workload, name)) is not None]
        if not lost or lost.startswith(f"{' and '.join(kept)} "):
            return None
        return f"{' and '.join(kept)} counts, in place of {lost}"

    @property
    def _has_batch(self) -> bool:
        """True if the length of a step is written outside of the run."""
        return any(self._sets_workload(name) and getattr(self.workload, name) is not None for name in BATCH)

    def _workload_of_run(self) -> Mapping[str, Any]:
        with working_in(self.folder):
            return cost_of_run(run_file(self.job.model)).workload

    def _sets_workload(self, field: str) -> bool:
        """Return whether the command line or the configuration sets a field of the workload."""
        if ("workload", field) in self.typed:
            return True
        return self.configuration is not None and self.configuration.sets(("jobs", self.name, "workload", field))

    @property
    def key(self) -> tuple[str, str]:
        """Job and layout, which identify it in snapshots and reports."""
        return self.name, self.layout_name

    @property
    def written_layout(self) -> Layout:
        """The layout as the user wrote it. `job` has the etp that its implementation sets."""
        if self.configuration is None:
            return self.job.layout
        return layouts_of(self.configuration.settings.jobs[self.name])[self.layout_name]

    @property
    def axes(self) -> str:
        """The sizes of its layout, such as `tp4 pp2 sp`."""
        with working_in(self.folder):
            return self.job.layout.label_as(settled(self.job))

    @property
    def label(self) -> str:
        """Name for messages: `llama3-8b train`."""
        return f"{self.name} {self.layout_name}"

    @property
    def folder(self) -> Path:
        """The folder that its paths are relative to.

        It is the folder of the configuration, or the current one for a job that is not configured.
        """
        return self.configuration.root if self.configuration is not None else Path.cwd()

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths that it is read from: of the configuration, the model and the LoRA. Some may be no
        files.
        """
        described, found = Path(self.job.model.removeprefix(HYBRID).removeprefix(BRIDGE)), []
        if self.configuration is not None:
            found.append(str(self.configuration.document.path or ""))
            lora = self.configuration.settings.jobs[self.name].lora
            if isinstance(lora, str):
                found += [str(self.folder / lora), *(str(self.folder / lora / name) for name in LORA_NAMES)]
        run = [str(file)] if (file := run_file(str(self.folder / described))) is not None else []
        return (*found, str(self.folder / described), str(self.folder / described / "config.json"), *run)

    @property
    def words(self) -> str:
        """The text to type as JOB and options for it: `llama3-8b/train --tp 2`."""
        return self.argument + self.options

    @property
    def argument(self) -> str:
        """The text to type as JOB for it: `llama3-8b/train`."""
        return self.job.model if self.configuration is None else f"{self.name}/{self.layout_name}"

    def location_of(self, key: str) -> Location | None:
        """Return the line of the configuration that sets a key of this job.

        Keys are `lora.target_modules[4]`, `layout.tp`, `model`, `model.hidden_size`, `serve`, ...
        None when the job is not configured or the command line set the key.
        """
        path = parsed(key)
        # `typed` has fields, not elements: an option replaces a whole list.
        if self.configuration is None or path is None or path[:2] in self.typed:
            return None
        table: KeyPath = ("jobs", self.name)
        head, rest = path[0], path[1:]
        # Only these keys of a job differ from those of its table in the configuration.
        places: dict[str | int, KeyPath] = {
            "lora": self.lora_key or (*table, "lora"),
            "layout": (*table, "layouts", self.layout_name),
            "model": (*table, "set", "model") if rest else (*table, "model"),
            "gpu_memory_gib": (*table, "gpu-memory-gib"),
        }
        return self.configuration.location((*places.get(head, (*table, head)), *rest))


def configured_jobs(
    configuration: Configuration, names: Sequence[str] = (), layout: str | None = None
) -> list[ConfiguredJob]:
    """Return the jobs called `names`, or all jobs, on all their layouts or the one called `layout`.

    Raises:
        ConfigError: a name is not configured, or no job has a layout of that name.
    """
    tables = configuration.settings.jobs
    for name in names:
        if name not in tables:
            raise ConfigError(
                f"no job '{name}' is configured{nearest(name, tables)} Configured: {', '.join(tables) or 'none'}."
            )
    # A name that was given twice is one job.
    made = [
        configured_job(configuration, name, layout_name, sizes)
        for name in (dict.fromkeys(names) or tables)
        for layout_name, sizes in layouts_of(tables[name]).items()
        if layout in (None, layout_name)
    ]
    if not made and layout is not None:
        have = dict.fromkeys(known for name in (names or tables) for known in layouts_of(tables[name]))
        raise ConfigError(f"no layout '{layout}' is configured{nearest(layout, have)} Configured: {', '.join(have)}.")
    return made


def layouts_of(table: JobTable) -> dict[str, Layout]:
    """Return the layouts of a job by name; one of one rank when it configures none."""
    return table.layouts or {DEFAULT_LAYOUT: Layout()}


def layout_of(layout: Layout, implementation: ImplementationName, bridge_release: str | None = None) -> Layout:
    """Return `layout` with the etp that `implementation` sets where the user left it out. None does
    so but some releases of Megatron-Bridge.
    """
    if implementation != "megatron-bridge" or layout.etp is not None or layout.ep == 1:
        return layout
    from clora_inspect.rules.reference import installed, released

    reference = released(bridge_release) if bridge_release else installed()
    return msgspec.structs.replace(layout, etp=1) if reference.sets_etp else layout


def configured_job(configuration: Configuration, name: str, layout_name: str, layout: Layout) -> ConfiguredJob:
    """Make the job `name` on one layout.

    Raises:
        ConfigError: it names a release of Megatron-Bridge that is none, or its LoRA cannot be read.
    """
    table = configuration.settings.jobs[name]
    _check_release(configuration, name, table)
    lora, lora_key = lora_of(configuration, name, table)
    return ConfiguredJob(
        name=name,
        layout_name=layout_name,
        job=Job(
            model=with_model_class(in_home(table.model), table.model_class),
            lora=CanonicalLoRA(**lora.written()),
            layout=layout_of(layout, table.implementation, table.bridge_release),
            model_overrides=_overrides(table),
            targets_written="target_modules" in lora.written(),
        ),
        implementation=table.implementation,
        bridge_release=table.bridge_release,
        serve=table.serve,
        export=table.export,
        gpu_memory_gib=table.gpu_memory_gib,
        workload=table.workload,
        checkpoint=table.checkpoint,
        configuration=configuration,
        lora_key=lora_key,
    )


def _overrides(table: JobTable) -> dict[str, Any]:
    recompute = table.workload.recompute
    return {**table.set.model, **({} if recompute is None else recompute_fields(recompute))}


def _check_release(configuration: Configuration, name: str, table: JobTable) -> None:
    # The rules are not imported for jobs that name none.
    if table.bridge_release is None:
        return
    from clora_inspect.rules.reference import is_release

    if not is_release(table.bridge_release):
        key = ("jobs", name, "bridge-release")
        problem = f"'{table.bridge_release[:80]}' is no release: write 0.4.2, or main."
        raise ConfigError([Problem(problem, configuration.location(key))])


def ad_hoc_job(job: Job, *, layout_name: str | None = None) -> ConfiguredJob:
    """Wrap a job that is not configured, such as a built-in architecture on the command line.

    Its layout is named after its sizes when `layout_name` is left out. Its name is the model's with
    the characters replaced that a file name must not have.
    """
    # No dot at the beginning: that would be a hidden folder of snapshots.
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", shown_name(job.model)).strip("-.") or "job"
    label = DEFAULT_LAYOUT if job.layout.world == 1 else settled(job).label.replace(" ", "-")
    return ConfiguredJob(name=name, layout_name=layout_name or label, job=job)


def lora_of(configuration: Configuration, name: str, table: JobTable) -> tuple[LoRATable, KeyPath]:
    """Return the LoRA of a job, and the key that defines it.

    Raises:
        ConfigError: it is in a file that cannot be read, or that has what `CanonicalLoRA` cannot
            express.
    """
    key: KeyPath = ("jobs", name, "lora")
    if not isinstance(table.lora, str):
        return table.lora or LoRATable(), key
    if table.lora in configuration.settings.lora:
        return configuration.settings.lora[table.lora], ("lora", table.lora)
    try:
        with working_in(configuration.root):
            made = read_lora_file(
                lora_path(table.lora),
                with_model_class(table.model, table.model_class),
                table.set.model,
                folder=configuration.root,
                as_canonical=table.lora_as_canonical,
            )
    except CloraError as error:
        raise ConfigError([Problem(str(error), configuration.location(key))]) from None
    return made, key
