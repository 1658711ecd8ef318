"""Gemma 1 and the text model of Gemma 3, which share scaled embeddings and norms around one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import (
    ACTIVATIONS,
    COMMON_DEFAULTS,
    attention_biases,
    decoder,
    layer_windows,
    refuse_attention_bias,
    sliding_window,
)
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.rope import rope_theta
from clora.families.dense.gemma2 import gemma_factors

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
_GEMMA3_DEFAULTS = {
    **_DEFAULTS,
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "use_bidirectional_attention": False,
}


def gemma(hf: HFConfig) -> Conversion:
    """Convert a `GemmaForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    bias, layers = attention_biases(hf)
    scale = {"embedding_multiplier": hf.size("hidden_size") ** 0.5}
    return decoder(hf, bias | {"layernorm_zero_centered_gamma": True}, layers=layers, factors=scale)


def gemma3_text(hf: HFConfig) -> Conversion:
    """Convert a `Gemma3ForCausalLM`: norms before and behind every block, norms of query and key
    heads, and windows on all layers but every sixth.
    """
    hf = hf.with_defaults(_GEMMA3_DEFAULTS)
    if hf.flag("use_bidirectional_attention"):
        raise hf.error("use_bidirectional_attention", "megatron-core's decoders are causal.")
    refuse_attention_bias(hf, "Gemma 3")
    every = hf.size("sliding_window_pattern")
    windowed = layer_windows(hf) or [bool((layer + 1) % every) for layer in range(hf.size("num_hidden_layers"))]
    fields = {
        "activation_func": hf.word("hidden_activation", ACTIVATIONS),
        "layernorm_zero_centered_gamma": True,
        "qk_layernorm": True,
        "softmax_scale": hf.positive_number("query_pre_attn_scalar") ** -0.5,
        **sliding_window(hf.optional_size("sliding_window"), windowed),
    }
    conversion = decoder(hf, fields, layers=LayerForm(has_norms_behind=True), factors=gemma_factors(hf))
    local, everywhere = hf.positive_number("rope_local_base_freq"), rope_theta(hf)
    if local == everywhere or not any(windowed):
        return conversion
    note = (
        f"Layers with a window have a RoPE base of {local:g} there; megatron-core has one base for all layers, "
        f"{everywhere:g}. No parameter depends on it."
    )
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, note))


FAMILIES = (
    Family(model_types=("gemma",), convert=gemma),
    Family(model_types=("gemma3_text",), convert=gemma3_text),
)
