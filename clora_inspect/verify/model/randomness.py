"""What of a model is switched off because with it a model does not equal itself, or not on another
layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

_SWITCHED_OFF = {
    "hidden_dropout": "dropout in the base",
    "attention_dropout": "dropout in attention",
    "moe_aux_loss_coeff": "the load-balancing loss, which counts tokens rank by rank",
    "moe_z_loss_coeff": "the router's z-loss",
    "moe_input_jitter_eps": "noise in the router's input",
}
"""Field of the model's config -> what it is."""

_RATES = ("hidden_dropout", "attention_dropout")
"""Attributes in which modules of megatron-core and Transformer Engine keep what their config said
when they were made.
"""


def switched_off(fields: Mapping[str, Any], said: list[str]) -> dict[str, Any]:
    """What must be off for a model to equal itself; each is said."""
    found = {name: fields[name] for name in _SWITCHED_OFF if fields.get(name)}
    said += [f"Off: {_SWITCHED_OFF[name]} ({name} = {value})." for name, value in found.items()]
    return {name: _off(value) for name, value in found.items()}


def switch_off(chunks: Iterable[nn.Module]) -> None:
    """Do in a model that is made already what `switched_off` says of a definition: for one whose
    config its own function decides.
    """
    from torch import nn

    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            foreign: Any = module
            for rate in _RATES:
                if isinstance(getattr(foreign, rate, None), float):
                    setattr(foreign, rate, 0.0)
            config = getattr(foreign, "config", None)
            for field in _SWITCHED_OFF:
                value = getattr(config, field, None)
                if value:
                    setattr(config, field, _off(value))


def _off(value: Any) -> Any:
    """Zero in the form of `value`: some losses have a coefficient for each of their kinds."""
    return [0.0] * len(value) if isinstance(value, list) else 0.0
