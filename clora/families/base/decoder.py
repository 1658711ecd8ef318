"""What all decoder families have in common: sizes, norms, biases, activation, sliding windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.sources.families.rope import rotary_embedding
from clora_inspect.sources.reader import LARGEST_COUNT

if TYPE_CHECKING:
    from clora_inspect.sources.reader import HFConfig

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "fast_gelu",
    "gelu_fast": "fast_gelu",
    "gelu_pytorch_tanh": "fast_gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "squared_relu",
}
"""Hugging Face's `hidden_act` -> the function in torch or megatron-core."""

FAMILY_INDEPENDENT = {
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
"""Hugging Face's defaults where (nearly) all families agree."""


def decoder_config(hf: HFConfig) -> dict[str, Any]:
    """Fields of `TransformerConfig` for a pre-norm decoder with RMSNorm and a gated MLP."""
    heads = hf.size("num_attention_heads")
    groups = hf.optional_size("num_key_value_heads") or heads
    if heads % groups:
        raise hf.error("num_key_value_heads", f"must divide num_attention_heads = {heads}.")
    return {
        "num_layers": hf.size("num_hidden_layers", largest=LARGEST_COUNT),
        "hidden_size": hf.size("hidden_size"),
        "ffn_hidden_size": hf.size("intermediate_size"),
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "kv_channels": head_dim(hf),
        "normalization": "RMSNorm",
        "layernorm_epsilon": hf.number("rms_norm_eps"),
        "gated_linear_unit": True,
        "activation_func": hf.word("hidden_act", ACTIVATIONS),
        "add_bias_linear": False,
        "add_qkv_bias": False,
        "qk_layernorm": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "init_method_std": hf.number("initializer_range"),
        "params_dtype": "bfloat16",
    }


def model_arguments(hf: HFConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Arguments of `GPTModel`, and notes on what the rotary embedding cannot express."""
    rotary, notes = rotary_embedding(hf)
    model = {
        "vocab_size": hf.size("vocab_size"),
        "max_sequence_length": hf.size("max_position_embeddings"),
        "share_embeddings_and_output_weights": hf.flag("tie_word_embeddings"),
    }
    return model | rotary, notes


def head_dim(hf: HFConfig) -> int:
    """Width of one attention head: as said, else hidden_size / num_attention_heads.

    Raises:
        ModelError: not said, and the division leaves a rest.
    """
    said = hf.optional_size("head_dim")
    if said is not None:
        return said
    heads, hidden = hf.size("num_attention_heads"), hf.size("hidden_size")
    if hidden % heads:
        raise hf.error(
            "hidden_size", f"must be a multiple of num_attention_heads = {heads} when head_dim is not given."
        )
    return hidden // heads


def biases(hf: HFConfig) -> dict[str, bool]:
    """Biases of all linears or of none; `attention_bias` alone also means the output projection,
    which megatron-core cannot say.

    Raises:
        ModelError: only one of `attention_bias` and `mlp_bias` is on.
    """
    attention, mlp = hf.flag("attention_bias"), hf.flag("mlp_bias")
    if attention != mlp:
        raise hf.error(
            "attention_bias",
            f"and mlp_bias = {str(mlp).lower()} cannot be built: megatron-core has a bias on all linears (both true), on "
            "none (both false), or on linear_qkv alone.",
        )
    return {"add_bias_linear": attention}


def sliding_window(window: int, windowed: list[bool]) -> dict[str, Any]:
    """Attention windows of the layers for which `windowed` says so.

    Hugging Face's window counts the token itself, megatron-core's the tokens to its left.
    """
    if not any(windowed):
        return {}
    fields: dict[str, Any] = {"window_size": [window - 1, 0]}
    if not all(windowed):
        fields["window_attn_skip_freq"] = [int(flag) for flag in windowed]
    return fields
