"""`Bridge`: the canonical LoRA of the installed Megatron-Bridge, as an implementation to prove.

Only `megatron.bridge.peft` and what it needs is imported. The package's top-level module would
import the conversion of every model with all the libraries that need, and none of that matters for
LoRA.
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
from clora.linears import sharded_state
from clora_inspect.job.job import lora_fields

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA

PACKAGE = "megatron.bridge"


class BridgeFieldError(CloraError):
    """The job sets a LoRA field that the installed Megatron-Bridge does not have."""


class Bridge:
    """The installed release of Megatron-Bridge."""

    name = "megatron-bridge"
    is_ours = False
    # Megatron-Bridge merges and exports whole checkpoints with scripts, not a live model.
    merges = False
    exports = False

    def __init__(self, lora_class: Any, release: str) -> None:
        self._class = lora_class
        self.release = release

    @classmethod
    def installed(cls) -> Bridge:
        """Import the package. Call it inside `megatron_on`: on a CPU the package needs the stand-in
        for Transformer Engine.

        Raises:
            DeviceError: it is not installed, or something that it imports is not.
        """
        try:
            release = version("megatron-bridge")
            _enter_package()
            _let_it_see_the_stand_in()
            return cls(import_module(f"{PACKAGE}.peft.canonical_lora").CanonicalLoRA, release)
        except PackageNotFoundError:
            raise DeviceError(
                "--implementation megatron-bridge: it is not installed. For verify, "
                "pip install --no-deps megatron-bridge==0.3.1 is enough."
            ) from None
        except ImportError as error:
            raise DeviceError(
                f"--implementation megatron-bridge: it cannot be imported: {error}. Install what is missing."
            ) from error

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        return list(self._bridge_lora(lora)(chunks))

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        # A script that resumes has a new object of the class, and so does `apply`.
        return self.apply(chunks, lora)

    def merge(self, chunks: list[nn.Module]) -> None:
        raise NotImplementedError

    def unmerge(self, chunks: list[nn.Module]) -> None:
        raise NotImplementedError

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        from megatron.core import dist_checkpointing

        folder.mkdir()
        dist_checkpointing.save(_adapter_state(chunks), str(folder))

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        from megatron.core import dist_checkpointing

        loaded = dist_checkpointing.load(_adapter_state(chunks), str(folder))
        for chunk in chunks:
            # Not strict, because the checkpoint has the adapters alone.
            chunk.load_state_dict(loaded, strict=False)

    def _bridge_lora(self, lora: CanonicalLoRA) -> Any:
        """Return an object of Megatron-Bridge's class with the fields of `lora`."""
        known = {field.name for field in fields(self._class)}
        ours = lora_fields(lora)
        defaults = lora_fields(type(lora)())
        for name in ours.keys() - known:
            # A field at its default asks for nothing, so a release without it does the same.
            if ours[name] != defaults[name]:
                raise BridgeFieldError(
                    f"Megatron-Bridge {self.release}'s CanonicalLoRA has no field {name}, which the job sets to "
                    f"{ours[name]!r}. Leave it out, or install another release."
                )
        return self._class(**{name: value for name, value in ours.items() if name in known})


def _enter_package() -> None:
    """Register `megatron.bridge` as an empty package, without running its top-level module."""
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


def _let_it_see_the_stand_in() -> None:
    """Answer `version("transformer-engine")` with the stand-in's version.

    megatron.bridge.peft.utils asks importlib.metadata for it, where the stand-in is not listed.
    """
    from transformer_engine import __version__ as stand_in_version

    def version_here(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            if name != "transformer-engine":
                raise
            return str(stand_in_version)

    utilities: Any = import_module(f"{PACKAGE}.peft.utils")
    # Releases that do not ask have no such name, and need none.
    if "version" in vars(utilities):
        utilities.version = version_here


def _adapter_state(chunks: list[nn.Module]) -> dict[str, Any]:
    """Return the sharded state of the adapters, by the name that Megatron-Bridge filters by."""
    state: dict[str, Any] = {}
    for chunk in chunks:
        state |= {name: value for name, value in sharded_state(chunk).items() if ".adapter." in name}
    return state
