"""Llama, and Mistral, which adds a sliding window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, biases, decoder, sliding_window
from clora.families.base.family import Family

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig


def llama(hf: HFConfig) -> Conversion:
    """Convert a `LlamaForCausalLM`."""
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    }
    hf = hf.with_defaults(COMMON_DEFAULTS | defaults)
    fields, layers = biases(hf)
    return decoder(hf, fields, layers=layers)


def mistral(hf: HFConfig) -> Conversion:
    """Convert a `MistralForCausalLM`. A window applies to every layer."""
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    }
    hf = hf.with_defaults(COMMON_DEFAULTS | defaults)
    # Newer releases write null, and have no window.
    return decoder(hf, sliding_window(hf.optional_size("sliding_window"), [True]))


FAMILIES = (
    Family(model_types=("llama",), convert=llama),
    Family(model_types=("mistral",), convert=mistral),
)
