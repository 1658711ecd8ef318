"""Fields that all decoder families share: sizes, norms, biases, activation, sliding windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.conversion import Conversion
from clora.families.base.layer_form import LayerForm
from clora.families.base.rope import rotary_embedding
from clora.limits import LARGEST_LAYERS

if TYPE_CHECKING:
    from clora.families.base.hf_config import HFConfig

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
"""Hugging Face's `hidden_act` -> name of the function in torch or megatron-core."""

COMMON_DEFAULTS = {
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
"""Hugging Face's defaults on which (nearly) all families agree. A family adds its own on top."""


def decoder(
    hf: HFConfig,
    fields: dict[str, Any],
    *,
    layers: LayerForm | None = None,
    factors: dict[str, float | None] | None = None,
) -> Conversion:
    """Convert a decoder with rotary embeddings.

    Args:
        hf: the config, over its family's defaults.
        fields: `TransformerConfig` fields in which the family differs from `decoder_config`.
        layers: the form of its layers; None for megatron-core's own.
        factors: constants that the model class reads off its config, such as
            `embedding_multiplier`; None for a factor that the model does not have.
    """
    rotary, notes = rotary_embedding(hf)
    model = model_sizes(hf) | rotary | (factors or {})
    return Conversion(config=decoder_config(hf) | fields, model=model, layers=layers or LayerForm(), notes=notes)


def decoder_config(hf: HFConfig) -> dict[str, Any]:
    """Return `TransformerConfig` fields of a pre-norm decoder with RMSNorm and a gated MLP."""
    heads = hf.size("num_attention_heads")
    # Without the field every query head has its own key and value head.
    groups = hf.optional_size("num_key_value_heads") or heads
    if heads % groups:
        raise hf.error("num_key_value_heads", f"must divide num_attention_heads = {heads}.")
    return {
        "num_layers": hf.size("num_hidden_layers", largest=LARGEST_LAYERS),
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
        # megatron-core's default is 0.1, and that of Hugging Face is 0.
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "init_method_std": hf.number("initializer_range"),
        # The file's own dtype is not read: it tells how weights are stored, not how a job trains.
        "params_dtype": "bfloat16",
    }


def model_sizes(hf: HFConfig) -> dict[str, Any]:
    """Return the arguments that every model class of megatron-core takes."""
    return {
        "vocab_size": hf.size("vocab_size"),
        "max_sequence_length": hf.size("max_position_embeddings"),
        "share_embeddings_and_output_weights": hf.flag("tie_word_embeddings"),
    }


def head_dim(hf: HFConfig) -> int:
    """Return the width of one attention head: `head_dim`, or hidden_size / num_attention_heads.

    Raises:
        ModelError: there is no `head_dim`, and the heads do not divide the hidden size.
    """
    width = hf.optional_size("head_dim")
    if width is not None:
        return width
    heads, hidden = hf.size("num_attention_heads"), hf.size("hidden_size")
    if hidden % heads:
        raise hf.error(
            "hidden_size", f"must be a multiple of num_attention_heads = {heads} when head_dim is not given."
        )
    return hidden // heads


def attention_biases(hf: HFConfig) -> tuple[dict[str, bool], LayerForm]:
    """Return the fields and the layers of a family whose `attention_bias` covers q, k, v and the
    output projection, and whose MLP never has biases.
    """
    has_biases = hf.flag("attention_bias")
    return {"add_qkv_bias": has_biases}, LayerForm(has_attention_bias=has_biases)


def biases(hf: HFConfig) -> tuple[dict[str, bool], LayerForm]:
    """Return the fields and the layers of a family with `attention_bias`, which covers q, k, v and
    the output projection, and `mlp_bias`.

    Raises:
        ModelError: only `mlp_bias` is on. megatron-core has no field for biases in the MLP alone.
    """
    if not hf.flag("mlp_bias"):
        return attention_biases(hf)
    if not hf.flag("attention_bias"):
        raise hf.error(
            "mlp_bias",
            "without attention_bias cannot be built: megatron-core has no biases in the MLP alone.",
        )
    return {"add_bias_linear": True}, LayerForm()


def refuse_attention_bias(hf: HFConfig, family: str) -> None:
    """Raise a `ModelError` if the config switches on biases that no released model has."""
    if hf.flag("attention_bias"):
        raise hf.error(
            "attention_bias", f"{family} with attention biases is not supported; no released model has them."
        )


def layer_windows(hf: HFConfig) -> list[bool] | None:
    """Return for each layer of `layer_types` whether it has a window; None without that list."""
    if hf.get("layer_types") is None:
        return None
    is_sliding = {"sliding_attention": True, "full_attention": False}
    return hf.words("layer_types", is_sliding, hf.size("num_hidden_layers"))


def sliding_window(window: int | None, windowed: list[bool]) -> dict[str, Any]:
    """Return the fields for a window of `window` tokens on the layers where `windowed` is true.

    A list of one entry stands for all layers. Without a window there are no fields.
    """
    if window is None or not any(windowed):
        return {}
    # Hugging Face counts the token itself; megatron-core counts the tokens to its left.
    fields: dict[str, Any] = {"window_size": [window - 1, 0]}
    if not all(windowed):
        fields["window_attn_skip_freq"] = [int(flag) for flag in windowed]
    return fields
