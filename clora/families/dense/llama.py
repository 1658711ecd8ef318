"""Llama; Mistral and Ministral, which add sliding windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, biases, decoder, layer_windows, sliding_window
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


def ministral(hf: HFConfig) -> Conversion:
    """Convert a `MinistralForCausalLM`. A window applies to the layers of `layer_types`, or to
    all.
    """
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
    return decoder(hf, sliding_window(hf.optional_size("sliding_window"), layer_windows(hf) or [True]))


def ministral3(hf: HFConfig) -> Conversion:
    """Convert a `Ministral3ForCausalLM`. A window applies to every layer."""
    defaults = {
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1_000_000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    }
    hf = hf.with_defaults(COMMON_DEFAULTS | defaults)
    conversion = decoder(hf, sliding_window(hf.optional_size("sliding_window"), [True]))
    rope = hf.table("rope_parameters")
    if rope is None or not rope.get("llama_4_scaling_beta"):
        return conversion
    note = (
        "Hugging Face scales queries by their position (llama_4_scaling_beta), and megatron-core does not. No "
        "parameter depends on it."
    )
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, note))


FAMILIES = (
    Family(model_types=("llama",), convert=llama),
    Family(model_types=("mistral",), convert=mistral),
    Family(model_types=("ministral",), convert=ministral),
    Family(model_types=("ministral3",), convert=ministral3),
)
