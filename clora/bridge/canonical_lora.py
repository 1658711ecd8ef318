"""`CanonicalLoRA` as a PEFT method that the config and the training of Megatron-Bridge take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from megatron.bridge.peft.base import PEFT
from megatron.bridge.peft.module_matcher import ModuleMatcher

import clora.canonical_lora
from clora.bridge.checkpoint import prepare_checkpoints
from clora.bridge.configuration import TARGET, allow_target
from clora.bridge.conversion import prepare_conversion
from clora.bridge.gate import call_gate
from clora.bridge.modules import prepare_modules

if TYPE_CHECKING:
    from clora.canonical_lora import ModelT
    from clora.linears import Model


@dataclass
class CanonicalLoRA(clora.canonical_lora.CanonicalLoRA, PEFT, ModuleMatcher):
    """`clora.CanonicalLoRA` as a PEFT method of Megatron-Bridge.

    Fields and meanings are those of `clora.CanonicalLoRA`, which plans and adapts. What
    Megatron-Bridge does with a model that this has adapted:

    - Its conversion to Hugging Face exports the adapters, merged or not, or raises.
    - A checkpoint that it saved with adapters of its own is loaded bit for bit on any layout.
    - A run that `CLORA_INSPECT_GATE` guards is compared with what was accepted.
    """

    def __call__(self, model: ModelT, training: bool = True) -> ModelT:
        """Adapt `model` in place, as `clora.CanonicalLoRA` does, and call the gate.

        Args:
            model: one rank's model, or the list of its virtual pipeline chunks.
            training: True puts the whole model into train mode, False into eval mode with frozen
                adapters.

        Returns:
            `model` itself.

        Raises:
            CloraError: as `clora.CanonicalLoRA`.
        """
        super().__call__(model, training)
        # A model that nobody trains has no first step, and its adapters are frozen.
        if training:
            call_gate(model)
        return model

    def finish_surgery(self, model: Model) -> None:
        """Let Megatron-Bridge find the adapters of `model`."""
        prepare_modules(model)
        prepare_conversion()
        prepare_checkpoints()

    def to_cfg_dict(self) -> dict[str, Any]:
        """Return what Megatron-Bridge writes to `run_config.yaml`: the fields that users set."""
        return {"_target_": TARGET, **_settings(self)}

    @classmethod
    def from_clora(cls, lora: clora.canonical_lora.CanonicalLoRA) -> CanonicalLoRA:
        """Return the settings of `lora` as a PEFT method of Megatron-Bridge."""
        return cls(**_settings(lora))

    def to_clora(self) -> clora.canonical_lora.CanonicalLoRA:
        """Return the settings as a `clora.CanonicalLoRA`, which knows no Megatron-Bridge."""
        return clora.canonical_lora.CanonicalLoRA(**_settings(self))


def _settings(lora: clora.canonical_lora.CanonicalLoRA) -> dict[str, Any]:
    named = {
        field.name: getattr(lora, field.name) for field in fields(clora.canonical_lora.CanonicalLoRA) if field.init
    }
    return {name: list(value) if isinstance(value, list) else value for name, value in named.items()}


# The name by which a config refers to the class, wherever the class stands.
CanonicalLoRA.__module__ = TARGET.rpartition(".")[0]
allow_target()
