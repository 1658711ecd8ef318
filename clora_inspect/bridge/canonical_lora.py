"""`BridgeLoRA`: the canonical LoRA of the installed Megatron-Bridge."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from clora_inspect.bridge.errors import BridgeFieldError
from clora_inspect.bridge.installed import part, release
from clora_inspect.job.job import lora_fields

if TYPE_CHECKING:
    from torch import nn

    from clora.canonical_lora import CanonicalLoRA


class BridgeLoRA:
    """The class `CanonicalLoRA` of one release."""

    def __init__(self, lora_class: Any, release: str) -> None:
        self._class = lora_class
        self.release = release

    @classmethod
    def installed(cls) -> BridgeLoRA:
        """Import the installed one. Call it inside `megatron_on`.

        Raises:
            DeviceError: it is not installed, or something that it imports is not.
        """
        _let_it_see_the_stand_in()
        return cls(part("peft.canonical_lora").CanonicalLoRA, release())

    def apply(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        """Adapt one rank's chunks for training, with the fields of `lora`.

        Raises:
            BridgeFieldError: it does not have a field that `lora` sets.
        """
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
        theirs = self._class(**{name: value for name, value in ours.items() if name in known})
        return list(theirs(chunks))


def _let_it_see_the_stand_in() -> None:
    """Answer `version("transformer-engine")` with the stand-in's version.

    megatron.bridge.peft.utils asks importlib.metadata for it, where the stand-in is not listed.
    """
    utilities: Any = part("peft.utils")
    from transformer_engine import __version__ as stand_in_version

    def version_here(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            if name != "transformer-engine":
                raise
            return str(stand_in_version)

    # Releases that do not ask have no such name, and need none.
    if "version" in vars(utilities):
        utilities.version = version_here
