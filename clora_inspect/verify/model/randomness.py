"""Switch off dropout, noise and losses that would make a model differ from itself when it runs
again, or on another layout; or set the random states.
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
"""Attributes in which modules of megatron-core and Transformer Engine copy their config's rates
when they are made.
"""


def switched_off(fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the config fields to change so that a model equals itself, and a sentence for each."""
    found = {name: fields[name] for name in _SWITCHED_OFF if fields.get(name)}
    changes = [f"Off: {_SWITCHED_OFF[name]} ({name} = {value})." for name, value in found.items()]
    return {name: _zero_like(value) for name, value in found.items()}, changes


def switch_off(chunks: Iterable[nn.Module]) -> None:
    """Switch the same fields off in a finished model, whose function decides its own config."""
    from torch import nn

    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            # This may be a user's module, which has any of these attributes or none.
            foreign: Any = module
            for rate in _RATES:
                if isinstance(getattr(foreign, rate, None), float):
                    setattr(foreign, rate, 0.0)
            config = getattr(foreign, "config", None)
            for field in _SWITCHED_OFF:
                value = getattr(config, field, None)
                if value:
                    setattr(config, field, _zero_like(value))


def seed_all(seed: int) -> None:
    """Set torch's and megatron-core's random states, as a training script does before its first
    step. Called on all ranks together.
    """
    import torch
    from megatron.core.tensor_parallel import random

    torch.manual_seed(seed)
    random.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def lora_dropout_off(dropout: float, position: str) -> tuple[str, ...]:
    """Return the sentence for the report where the job's LoRA has dropout; else nothing."""
    if not dropout:
        return ()
    return (f"Off, except in the proof `dropout`: LoRA's dropout (dropout = {dropout:g}, {position}).",)


def _zero_like(value: Any) -> Any:
    """Return zero, or a list of zeros: some losses have one coefficient for each of their kinds."""
    return [0.0] * len(value) if isinstance(value, list) else 0.0
