"""Whose surgery is proved: ours, or the installed Megatron-Bridge's."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from clora.errors import CloraError
from clora_inspect.verify.outcome import Refuted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA

Name = Literal["clora", "megatron-bridge"]


class Implementation(Protocol):
    """What the proofs ask of an implementation of canonical LoRA."""

    @property
    def name(self) -> str:
        """As the report names it."""

    @property
    def merges(self) -> bool:
        """Whether it can fold adapters into a live model's weights, and take them out."""

    @property
    def exports(self) -> bool:
        """Whether it can write a Hugging Face adapter folder, and read it."""

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """Adapt a base model, ready to be trained; the chunks to go on with."""

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """What a user does who applies it a second time."""

    def merge(self, chunks: list[nn.Module]) -> None:
        """Fold the adapters in."""

    def unmerge(self, chunks: list[nn.Module]) -> None:
        """Take them out."""

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        """Write the adapters as a distributed checkpoint."""

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        """Read them into a model that is adapted alike."""


class Clora:
    """This library."""

    name = "clora"
    merges = True
    exports = True

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """Adapt the chunks in place."""
        lora(chunks)
        return chunks

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """Refused by the library, which is one of the two good answers."""
        from clora.errors import AlreadyAdaptedError

        with suppress(AlreadyAdaptedError):
            lora(chunks)
        return chunks

    def merge(self, chunks: list[nn.Module]) -> None:
        """Fold the adapters in."""
        from clora.merge import merge_adapters

        merge_adapters(chunks)

    def unmerge(self, chunks: list[nn.Module]) -> None:
        """Take them out."""
        from clora.merge import unmerge_adapters

        unmerge_adapters(chunks)

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        """Write the adapters."""
        from clora.adapter_checkpoint import save_adapters

        save_adapters(chunks, folder)

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        """Read the adapters."""
        from clora.adapter_checkpoint import load_adapters

        load_adapters(chunks, folder)


class Watched:
    """An implementation whose exceptions refute the proof that met them: what it raises, its user
    meets. Refusals of our own stay what they are.
    """

    def __init__(self, inner: Implementation) -> None:
        self._inner = inner
        self.name = inner.name
        self.merges = inner.merges
        self.exports = inner.exports

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """As the implementation does."""
        with _refuting("Surgery", "The job would stop before its first step."):
            return self._inner.apply(chunks, lora)

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """As the implementation does."""
        with _refuting("A second surgery", "A script that applies it again stops there."):
            return self._inner.apply_again(chunks, lora)

    def merge(self, chunks: list[nn.Module]) -> None:
        """As the implementation does."""
        with _refuting("Merging", "The adapters cannot be served merged."):
            self._inner.merge(chunks)

    def unmerge(self, chunks: list[nn.Module]) -> None:
        """As the implementation does."""
        with _refuting("Unmerging", "The base cannot be had back."):
            self._inner.unmerge(chunks)

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        """As the implementation does."""
        with _refuting("Saving the adapters", "The job would stop at its first checkpoint."):
            self._inner.save(chunks, folder)

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        """As the implementation does."""
        with _refuting("Loading the adapters", "The job could not be resumed."):
            self._inner.load(chunks, folder)


@contextmanager
def _refuting(what: str, so: str) -> Iterator[None]:
    try:
        yield
    except (CloraError, Refuted):
        raise
    except Exception as error:
        raise Refuted(f"{what} raises {type(error).__name__}: {' '.join(str(error).split())}. {so}") from error


def implementation_of(name: Name) -> Implementation:
    """The implementation called `name`.

    Raises:
        DeviceError: Megatron-Bridge is not installed, or cannot be imported.
    """
    if name == "clora":
        return Clora()
    from clora_inspect.verify.model.bridge import Bridge

    return Bridge.installed()


def fields_of(lora: CanonicalLoRA) -> dict[str, Any]:
    """The fields that a user writes."""
    return {field.name: getattr(lora, field.name) for field in fields(lora) if field.init}


def parameters_of(chunks: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Name and tensor of every parameter of all chunks, the chunk's number before it where there
    are several.
    """
    many = len(chunks) > 1
    return [
        (f"{number}:{name}" if many else name, parameter)
        for number, chunk in enumerate(chunks)
        for name, parameter in chunk.named_parameters()
    ]
