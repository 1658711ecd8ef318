"""`Implementation`: the operations that the proofs ask of an implementation of canonical LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA


class Implementation(Protocol):
    """One implementation. `chunks` is always this rank's part of the model, one module for each
    virtual pipeline stage.
    """

    @property
    def name(self) -> str:
        """Name in the report, for example `clora`."""

    @property
    def is_ours(self) -> bool:
        """True for clora. What other modules raise in a proof is a verdict, and no bug of ours."""

    @property
    def merges(self) -> bool:
        """True if `merge` and `unmerge` work on a live model."""

    @property
    def exports(self) -> bool:
        """True if adapters can be written as a Hugging Face folder and read back."""

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """Adapt a base model for training; return the chunks to continue with."""

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """Adapt a model that is adapted already, as a user would by mistake."""

    def merge(self, chunks: list[nn.Module]) -> None:
        """Add the adapters to the base weights."""

    def unmerge(self, chunks: list[nn.Module]) -> None:
        """Restore the base weights from before `merge`."""

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        """Write the adapters as a distributed checkpoint."""

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        """Read the adapters into a model that is adapted in the same way."""
