"""A job: a model, a LoRA and a layout that are planned, checked and verified together. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping


Device = Literal["meta", "cpu", "cuda"]
"""Where modules are built: `meta` has shapes only, `cpu` has values too, `cuda` is a GPU with the
real Transformer Engine.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the user asked for it. Nothing is resolved: the model was not even looked for."""

    model: str
    """An architecture, a Hugging Face folder or config.json, or `package.module:function`."""
    lora: CanonicalLoRA = field(default_factory=CanonicalLoRA)
    layout: Layout = field(default_factory=Layout)
    model_overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's config that the user set, on top of what the model says."""
    targets_written: bool = False
    """True if the user wrote `target_modules`. An unmatched target is their mistake then. Most
    models lack some of our default targets.
    """
    device: Device = "meta"
    planned_by: ImplementationName = "clora"
    """The implementation whose surgery the plan shows. The installed Megatron-Bridge adapts a model
    of its own.
    """


def lora_fields(lora: CanonicalLoRA) -> dict[str, Any]:
    """Return the arguments that build an equal `CanonicalLoRA`; derived fields are left out."""
    # `init=False` marks derived fields, which the constructor refuses.
    return {each.name: getattr(lora, each.name) for each in fields(lora) if each.init}
