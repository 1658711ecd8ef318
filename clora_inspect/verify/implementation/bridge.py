"""The installed Megatron-Bridge's own canonical LoRA, under the same proofs.

Of that package only `megatron.bridge.peft` is imported, and what it imports: its top-level module
would import every model's conversion and their libraries, which say nothing about LoRA.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError, DeviceError
from clora_inspect.verify.model.implementation import fields_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA

PACKAGE = "megatron.bridge"


class BridgeFieldError(CloraError):
    """The job's LoRA says something that the installed Megatron-Bridge has no field for."""


class Bridge:
    """Megatron-Bridge as it is installed here."""

    name = "megatron-bridge"
    merges = False
    exports = False

    def __init__(self, lora_class: Any, release: str) -> None:
        self._class = lora_class
        self.release = release

    @classmethod
    def installed(cls) -> Bridge:
        """Import it, inside the world that is entered.

        Raises:
            DeviceError: it is not installed, or something that it imports is not.
        """
        try:
            release = version("megatron-bridge")
            _package()
            _tell_the_version()
            return cls(import_module(f"{PACKAGE}.peft.canonical_lora").CanonicalLoRA, release)
        except PackageNotFoundError:
            raise DeviceError(
                "--implementation megatron-bridge: it is not installed. pip install --no-deps megatron-bridge==0.3.1 is enough for verify."
            ) from None
        except ImportError as error:
            raise DeviceError(
                f"--implementation megatron-bridge: it cannot be imported: {error}. Install what is missing."
            ) from error

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """Make its own object of the same fields, and call it."""
        return list(self._made(lora)(chunks))

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """The same once more."""
        return self.apply(chunks, lora)

    def merge(self, chunks: list[nn.Module]) -> None:
        """Not asked of it: it merges whole checkpoints."""
        raise NotImplementedError

    def unmerge(self, chunks: list[nn.Module]) -> None:
        """Not asked of it."""
        raise NotImplementedError

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        """A distributed checkpoint of the entries that its key filter takes for adapters'."""
        from megatron.core import dist_checkpointing

        folder.mkdir()
        dist_checkpointing.save(_adapter_state(chunks), str(folder))

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        """Read it, and load it as a state dict."""
        from megatron.core import dist_checkpointing

        loaded = dist_checkpointing.load(_adapter_state(chunks), str(folder))
        for chunk in chunks:
            chunk.load_state_dict(loaded, strict=False)

    def _made(self, lora: CanonicalLoRA) -> Any:
        known = {field.name for field in fields(self._class)}
        ours = fields_of(lora)
        defaults = fields_of(type(lora)())
        for name in ours.keys() - known:
            if ours[name] != defaults[name]:
                raise BridgeFieldError(
                    f"Megatron-Bridge {self.release}'s CanonicalLoRA has no field {name}, which the job sets to "
                    f"{ours[name]!r}. Leave it out, or use another release."
                )
        return self._class(**{name: value for name, value in ours.items() if name in known})


def _package() -> None:
    """Let the package be there without its own top-level module."""
    if PACKAGE in sys.modules:
        return
    megatron = import_module("megatron")
    spec = PathFinder.find_spec(PACKAGE, list(megatron.__path__))
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    package = ModuleType(PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[PACKAGE] = package
    megatron.bridge = package  # type: ignore[attr-defined]


def _tell_the_version() -> None:
    """It asks the installation for Transformer Engine's version; in the virtual world that is the
    stand-in's, which is not installed.
    """
    from transformer_engine import __version__ as stand_in

    utilities: Any = import_module(f"{PACKAGE}.peft.utils")

    def told(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            if name != "transformer-engine":
                raise
            return str(stand_in)

    if hasattr(utilities, "version"):
        utilities.version = told


def _adapter_state(chunks: list[nn.Module]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for chunk in chunks:
        foreign: Any = chunk
        state |= {name: value for name, value in foreign.sharded_state_dict().items() if ".adapter." in name}
    return state
