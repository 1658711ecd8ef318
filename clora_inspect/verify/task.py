"""`ProofTask`, which every rank receives, and `RankAnswer`, which it sends back. Both travel
between processes as JSON. Pure.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.layout import Layout
from clora_inspect.sources.definition import ModelDefinition
from clora_inspect.verify.outcome import BrokenOffError


class ProofTask(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one layout, on which proofs are run."""

    definition: ModelDefinition
    layout: Layout
    lora: dict[str, Any]
    """Fields of `CanonicalLoRA`."""
    targets: tuple[tuple[str, ...], ...] | None = None
    """Explicit targets of each virtual pipeline stage, in place of those in `lora`; None where the
    job's own targets mean the same modules in this model.
    """
    single_rank_targets: tuple[str, ...] | None = None
    """Explicit targets of the same model on one rank, which numbers its layers without stages."""
    layers: tuple[int, ...] = ()
    """For each layer of this model, the number of the job's layer that it stands for."""
    implementation: ImplementationName = "clora"
    seed: int = 1234
    one_layer: bool = False
    """The model is one layer at its true width, without embedding and output layer."""
    recompute: dict[str, Any] = {}
    """The job's own config fields of activation recomputation."""
    length: int | None = None
    """Tokens in a row; None for the usual number."""
    handed_on: int | None = None
    """Tokens in the states between stages, where they are others."""
    weights: str | None = None
    """Folder of a distributed checkpoint with the base's values; drawn values when None."""


class RankAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How one proof ended on one rank."""

    status: Literal["passed", "failed", "skipped", "elsewhere"]
    """`elsewhere`: the proof ended on another rank, whose answer has the outcome."""
    detail: str = ""
    where: str | None = None
    """Path (and canonical part) of the module to blame, with the job's layer numbers."""
    tensors: int = 0
    elements: int = 0
    crashed: bool = False
    """The adapted model cannot run: its forward or backward raised, or its factors do not fit."""
    largest_error: float | None = None
    bound: float | None = None
    lengths: tuple[int, int] | None = None
    """Tokens in a row, and in the states between stages, which `handover` found."""


def answer_of(error: BrokenOffError) -> RankAnswer:
    """Return the answer for a proof that modules of another implementation have ended."""
    return RankAnswer(status="failed", detail=error.detail, where=error.where or None)
