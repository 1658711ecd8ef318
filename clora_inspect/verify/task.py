"""What is asked of the ranks, as data that travels to other processes. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from clora_inspect.job.layout import Layout
from clora_inspect.sources.definition import ModelDefinition

Size = Literal["tiny", "layer", "full"]
ImplementationName = Literal["clora", "megatron-bridge"]


class ProofTask(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one layout, to be proved."""

    definition: ModelDefinition
    layout: Layout
    lora: dict[str, Any]
    """Fields of `CanonicalLoRA`."""
    targets: tuple[tuple[str, ...], ...] | None = None
    """Explicit targets of every virtual pipeline stage."""
    whole_targets: tuple[str, ...] | None = None
    """Those of the model on one rank."""
    layers: tuple[int, ...] = ()
    """The job's layer for each layer of the model."""
    implementation: ImplementationName = "clora"
    seed: int = 1234
    ends: bool = True
    streamed: bool = False
    recompute: dict[str, Any] = {}
    """The job's own settings of activation recomputation."""
    weights: str | None = None
    """A distributed checkpoint for the base's values; drawn ones when None."""


class RankAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How one proof ended on one rank."""

    status: Literal["passed", "failed", "skipped", "elsewhere"]
    detail: str = ""
    where: str | None = None
    tensors: int = 0
    elements: int = 0
    crashed: bool = False
    """The adapted model's forward or backward raised."""
    largest_error: float | None = None
    bound: float | None = None
