"""A job: the model, the LoRA and the layout that are planned, checked and verified together. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping


Device = Literal["meta", "cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the user asked for, nothing resolved yet."""

    model: str
    """A built-in architecture, a Hugging Face folder or config.json, or `package.module:function`."""
    lora: CanonicalLoRA = field(default_factory=CanonicalLoRA)
    layout: Layout = field(default_factory=Layout)
    model_overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the model's config set by the user, on top of what the model says."""
    targets_written: bool = False
    """True when the user wrote `target_modules`: then one that matches nothing is his mistake, not
    our default's.
    """
    device: Device = "meta"
    """Where the modules are built: `meta` has shapes only; `cpu` values too; `cuda` is a real GPU
    with real Transformer Engine.
    """


def lora_fields(lora: CanonicalLoRA) -> dict[str, Any]:
    """Return the arguments that build an equal `CanonicalLoRA`; derived fields are left out."""
    return {each.name: getattr(lora, each.name) for each in fields(lora) if each.init}
