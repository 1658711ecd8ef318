"""`Clora`: this library, as an implementation to prove."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from clora.adapter_checkpoint import load_adapters, save_adapters
from clora.errors import AlreadyAdaptedError
from clora.merge import merge_adapters, unmerge_adapters

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA


class Clora:
    name = "clora"
    is_ours = True
    merges = True
    exports = True

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        lora(chunks)
        return chunks

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        # Refusing is one of the two good answers; the other is to leave the adapters alone.
        with suppress(AlreadyAdaptedError):
            lora(chunks)
        return chunks

    def merge(self, chunks: list[nn.Module]) -> None:
        merge_adapters(chunks)

    def unmerge(self, chunks: list[nn.Module]) -> None:
        unmerge_adapters(chunks)

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        save_adapters(chunks, folder)

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        load_adapters(chunks, folder)
