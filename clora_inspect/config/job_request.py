"""`JobRequest`: a JOB and what changes it, from the command line or from Python. Pure."""

from __future__ import annotations

import json
import shlex
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
    workload: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Workload`."""
    device: Device | None = None
    implementation: ImplementationName | None = None
    """The implementation that adapts the model."""
    via_bridge: bool = False
    """True if Megatron-Bridge converts and builds the model."""
    model_class: ModelClass | None = None
    """The class that an architecture is built as."""

    @property
    def options(self) -> str:
        """The options that make the same job, as one types them in a shell: ` --tp 2 --dim 8`. They
        begin with a space; empty if there are none. JOB/LAYOUT says what `--layout` does.
        """
        words: list[str] = []
        if self.lora_name is not None:
            words += ["--lora", self.lora_name]
        if self.lora_as_canonical:
            words.append("--lora-as-canonical")
        for name, value in self.layout.items():
            option = name.replace("_", "-")
            words += [f"--{option}" if value else f"--no-{option}"] if name == "sp" else [f"--{option}", str(value)]
        for name, value in self.lora.items():
            words += _option_of(f"lora.{name}", value)
        for name, value in self.model.items():
            words += _option_of(f"model.{name}", value)
        for name, value in self.workload.items():
            words += _option_of(f"workload.{name}", value)
        named = {"device": self.device, "via": "bridge" if self.via_bridge else None}
        named |= {"model-class": self.model_class, "implementation": self.implementation}
        words += [word for name, value in named.items() if value for word in (f"--{name}", value)]
        return "".join(f" {shlex.quote(word)}" for word in words)

    @property
    def changes_anything(self) -> bool:
        """True if any option was typed. None of them can be applied to a saved plan."""
        named = self.layout_name or self.lora_name or self.implementation or self.via_bridge or self.model_class
        return bool(named or self.changes_job or self.device)

    @property
    def changes_job(self) -> bool:
        """True if any field of the job was typed, instead of the name of a configured table."""
        return bool(self.layout or self.lora or self.model or self.workload)

    @property
    def run_lora(self) -> RunLoRA:
        """How the LoRA of a run of Megatron-Bridge is read."""
        from clora_inspect.config.run_job import RunLoRA

        if self.lora_name is not None:
            return RunLoRA.NOT
        return RunLoRA.AS_CANONICAL if self.lora_as_canonical else RunLoRA.AS_IT_IS


def _option_of(key: str, value: object) -> list[str]:
    # From Python a value may be a function or a dtype, which has no JSON.
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return ["--set", f"{key}={text}"]
