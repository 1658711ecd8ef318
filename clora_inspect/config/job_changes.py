"""Apply the options of the command line to a job. They beat the configuration field by field."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.config.errors import ConfigError
from clora_inspect.config.jobs import ad_hoc_job, layout_of
from clora_inspect.config.lora_file.reader import is_lora_file, lora_path, read_lora_file
from clora_inspect.config.validation import in_words
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import SHOWN, is_recompute, recompute_fields
from clora_inspect.job.workload import BATCH, Workload, replacing
from clora_inspect.sources.model_name import BRIDGE, run_file, with_model_class
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.config.job_request import JobRequest
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.key_path import KeyPath
    from clora_inspect.config.load import Configuration
    from clora_inspect.config.settings import LoRATable


def with_options(configured: ConfiguredJob, request: JobRequest, configuration: Configuration) -> ConfiguredJob:
    """Return `configured` with the changes that the options of `request` make.

    A field that an option set is noted in `typed`: no line of the configuration can be named for
    it.

    Raises:
        ConfigError: no LoRA of that name is configured, or `CanonicalLoRA` has no such field.
        CloraError: the layout or the LoRA is not valid.
    """
    if request.lora_as_canonical and request.lora_name is None and run_file(configured.job.model) is None:
        raise ConfigError("--lora-as-canonical says how to read a file: name it with --lora FILE.")
    model = with_model_class(configured.job.model, request.model_class)
    configured = replace(configured, job=replace(configured.job, model=model))
    if request.via_bridge and not configured.job.model.startswith(BRIDGE):
        configured = replace(configured, job=replace(configured.job, model=f"{BRIDGE}{configured.job.model}"))
    if request.implementation is not None:
        job = replace(configured.job, planned_by=request.implementation)
        configured = replace(configured, job=job, implementation=request.implementation)
    if request.lora_name is not None:
        configured = _with_lora(configured, request.lora_name, request, configuration)
    job = configured.job
    # Made anew, so that the layout checks its sizes again.
    layout = Layout(**{**msgspec.structs.asdict(configured.written_layout), **request.layout})
    job = replace(
        job,
        lora=_lora(job.lora, request.lora),
        layout=layout_of(layout, configured.implementation, configured.bridge_release),
        model_overrides={**job.model_overrides, **request.model},
        targets_written=_are_targets_written(job.targets_written, request.lora),
        device=request.device or job.device,
    )
    typed = {(table, name) for table in ("layout", "lora", "model") for name in getattr(request, table)}
    after = replace(configured, job=job, typed=configured.typed | typed, options=request.options)
    after = with_workload(after, request.workload)
    if configured.configuration is None and request.layout and not request.layout_name:
        # A job that is not configured has layouts named after their sizes.
        return replace(after, layout_name=ad_hoc_job(job).layout_name)
    return after


def with_workload(configured: ConfiguredJob, typed: Mapping[str, Any]) -> ConfiguredJob:
    """Return `configured` with fields of its workload; `recompute` sets those of the model as well.

    Raises:
        ConfigError: `Workload` has no such field, or refuses its value.
    """
    known = Workload.__struct_fields__
    for name in typed:
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(f"A workload has no field '{name}'{near} Its fields: {', '.join(known)}.")
    recompute = typed.get("recompute")
    if isinstance(recompute, str) and not is_recompute(recompute):
        raise ConfigError(
            f"workload.recompute: '{recompute[:80]}' does not say what is recomputed: write {SHOWN}, such as "
            "full:block:4."
        )
    before = msgspec.structs.asdict(configured.workload)
    for name, value in typed.items():
        if ("workload", name) in configured.typed and before[name] != value:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{option} {value} and --set workload.{name}={before[name]} contradict each other. Leave one out."
            )
    # Two that were both typed must agree; a typed one replaces a configured one.
    changed = {
        name: value
        for name, value in replacing(typed).items()
        if name in typed or ("workload", name) not in configured.typed
    }
    try:
        workload = msgspec.convert({**before, **changed}, Workload)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).rpartition(" - at `$.")
        raise ConfigError(f"workload.{place.rstrip('`')}: {in_words(problem)}") from None
    job = configured.job
    if typed.get("recompute") is not None:
        job = replace(job, model_overrides={**job.model_overrides, **recompute_fields(typed["recompute"])})
    marks = {("workload", name) for name in typed}
    lost = [f"{name} = {before[name]}" for name in BATCH if before[name] and getattr(workload, name) is None]
    replaced = f"{lost[0]} of the configuration" if lost and len(typed.keys() & set(BATCH)) == 1 else ""
    return replace(
        configured,
        job=job,
        workload=workload,
        typed=configured.typed | marks,
        replaced_batch=replaced or configured.replaced_batch,
    )


def with_gpu_memory(configured: ConfiguredJob, gib: float | None) -> ConfiguredJob:
    """Return `configured` with the memory of a GPU that was typed; None if none was."""
    if gib is None:
        return configured
    return replace(configured, gpu_memory_gib=gib, typed=configured.typed | {("gpu_memory_gib",)})


def _with_lora(
    configured: ConfiguredJob, name: str, request: JobRequest, configuration: Configuration
) -> ConfiguredJob:
    tables = configuration.settings.lora
    if name in tables:
        return _with_table(configured, tables[name], lora_key=("lora", name))
    if not is_lora_file(name) and not Path(name).exists():
        raise ConfigError(
            f"no LoRA '{name}' is configured{nearest(name, tables)} Configured: {', '.join(tables) or 'none'}. Nor is "
            "there such a file."
        )
    overrides = {**configured.job.model_overrides, **request.model}
    made = read_lora_file(
        lora_path(name),
        configured.job.model,
        overrides,
        folder=configured.folder,
        as_canonical=request.lora_as_canonical,
    )
    changed = _with_table(configured, made, lora_key=configured.lora_key)
    # No line of the configuration defines it.
    return replace(changed, typed=configured.typed | {("lora", field) for field in made.written()})


def _with_table(configured: ConfiguredJob, table: LoRATable, *, lora_key: KeyPath) -> ConfiguredJob:
    written = table.written()
    job = replace(configured.job, lora=CanonicalLoRA(**written), targets_written="target_modules" in written)
    return replace(configured, job=job, lora_key=lora_key)


def _lora(lora: CanonicalLoRA, typed: Mapping[str, Any]) -> CanonicalLoRA:
    known = [each.name for each in fields(CanonicalLoRA) if each.init]
    for name in typed:
        if name not in known:
            # The suggestion is what can be typed: --set lora.FIELD=VALUE.
            near = nearest(f"lora.{name}", [f"lora.{each}" for each in known])
            raise ConfigError(f"CanonicalLoRA has no field '{name}'{near} Its fields: {', '.join(known)}.")
    values = dict(typed)
    # CanonicalLoRA takes one of the two. The one that was typed replaces the configured other one.
    if values.get("exclude_modules") and "target_modules" not in values:
        values["target_modules"] = []
    if values.get("target_modules") and "exclude_modules" not in values:
        values["exclude_modules"] = []
    return replace(lora, **values)


def _are_targets_written(before: bool, typed: Mapping[str, Any]) -> bool:
    """Return whether the user chose the targets, so that one without a match is their mistake."""
    if typed.get("target_modules"):
        return True
    return before and not typed.get("exclude_modules")
