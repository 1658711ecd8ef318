"""Granite: Llama with constant factors on embeddings, residuals, attention scores and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, biases, decoder
from clora.families.base.family import Family

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}


def granite(hf: HFConfig) -> Conversion:
    """Convert a `GraniteForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    fields, layers = biases(hf)
    factors: dict[str, float | None] = {
        "embedding_multiplier": hf.number("embedding_multiplier"),
        "residual_multiplier": hf.number("residual_multiplier"),
        "logits_divisor": hf.positive_number("logits_scaling"),
    }
    if factors["logits_divisor"] == 0:
        raise hf.error("logits_scaling", "the logits are divided by it.")
    return decoder(hf, fields | {"softmax_scale": hf.number("attention_multiplier")}, layers=layers, factors=factors)


FAMILIES = (Family(model_types=("granite",), convert=granite),)
