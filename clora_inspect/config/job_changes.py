"""Put what the command line said over a job: it beats the configuration, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.config.errors import ConfigError
from clora_inspect.layout import Layout
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanges:
    """What was said, and nothing else."""

    lora_name: str | None = None
    """A configured table `lora`, in place of the job's own."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    device: Device | None = None


def changed(configured: ConfiguredJob, changes: JobChanges, configuration: Configuration) -> ConfiguredJob:
    """`configured` with `changes`. What was changed is written in no file, so it has no location there.

    Raises:
        ConfigError: there is no LoRA of that name, or `CanonicalLoRA` has no such field.
        CloraError: a layout or a LoRA that cannot be.
    """
    if changes.lora_name is not None:
        configured = _with_lora(configured, changes.lora_name, configuration)
    job = configured.job
    typed = {("layout", name) for name in changes.layout}
    typed |= {("lora", name) for name in changes.lora}
    typed |= {("model", name) for name in changes.model}
    return replace(
        configured,
        job=replace(
            job,
            lora=_lora(job.lora, changes.lora),
            layout=Layout(**{**msgspec.structs.asdict(job.layout), **changes.layout}),
            model_overrides={**job.model_overrides, **changes.model},
            targets_written=_writes_targets(job.targets_written, changes.lora),
            device=changes.device or job.device,
        ),
        typed=configured.typed | typed,
    )


def _with_lora(configured: ConfiguredJob, name: str, configuration: Configuration) -> ConfiguredJob:
    tables = configuration.settings.lora
    if name not in tables:
        raise ConfigError(
            f"no lora '{name}' is configured{nearest(name, tables)} Configured: {', '.join(tables) or 'none'}."
        )
    written = tables[name].written()
    job = replace(configured.job, lora=CanonicalLoRA(**written), targets_written="target_modules" in written)
    return replace(configured, job=job, lora_key=("lora", name))


def _lora(lora: CanonicalLoRA, typed: Mapping[str, Any]) -> CanonicalLoRA:
    known = [each.name for each in fields(CanonicalLoRA) if each.init]
    for name in typed:
        if name not in known:
            near = nearest(f"lora.{name}", [f"lora.{each}" for each in known])
            raise ConfigError(f"CanonicalLoRA has no field '{name}'{near} Its fields: {', '.join(known)}.")
    values = dict(typed)
    # Each of the two says what is adapted, so the one that was typed takes the place of the one that was not.
    if values.get("exclude_modules") and "target_modules" not in values:
        values["target_modules"] = []
    if values.get("target_modules") and "exclude_modules" not in values:
        values["exclude_modules"] = []
    return replace(lora, **values)


def _writes_targets(before: bool, typed: Mapping[str, Any]) -> bool:
    if typed.get("target_modules"):
        return True
    return before and not typed.get("exclude_modules")
