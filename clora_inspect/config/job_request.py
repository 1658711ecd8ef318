"""`JobRequest`: a JOB and what changes it, from the command line or from Python. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.config.run_job import RunLoRA
    from clora_inspect.job.implementation import ImplementationName
    from clora_inspect.job.job import Device
    from clora_inspect.job.model_class import ModelClass


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """The job as the user asked for it. Options that were left out are not in it."""

    name: str = ""
    """JOB itself; empty when it was left out."""
    layout_name: str | None = None
    """Name of one of the job's configured layouts (`--layout`)."""
    lora_name: str | None = None
    """Name of a table under `lora` in the configuration, or a file (`--lora`)."""
    lora_as_canonical: bool = False
    """True to plan the adapters of such a file as canonical LoRA if they are none."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Layout`."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `CanonicalLoRA`."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's own config."""
    device: Device | None = None
    implementation: ImplementationName | None = None
    """The implementation that adapts the model."""
    via_bridge: bool = False
    """True if Megatron-Bridge converts and builds the model."""
    model_class: ModelClass | None = None
    """The class that an architecture is built as."""

    @property
    def changes_anything(self) -> bool:
        """True if any option was typed. None of them can be applied to a saved plan."""
        named = self.layout_name or self.lora_name or self.implementation or self.via_bridge or self.model_class
        return bool(named or self.changes_job or self.device)

    @property
    def changes_job(self) -> bool:
        """True if any field of the job was typed, instead of the name of a configured table."""
        return bool(self.layout or self.lora or self.model)

    @property
    def run_lora(self) -> RunLoRA:
        """How the LoRA of a run of Megatron-Bridge is read."""
        from clora_inspect.config.run_job import RunLoRA

        if self.lora_name is not None:
            return RunLoRA.NOT
        return RunLoRA.AS_CANONICAL if self.lora_as_canonical else RunLoRA.AS_IT_IS
