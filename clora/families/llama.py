"""Llama, Mistral, Qwen2, Qwen3, Nemotron and Gemma 2: decoders with one MLP in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.sources.families.conversion import Conversion
from clora_inspect.sources.families.decoder import (
    ACTIVATIONS,
    FAMILY_INDEPENDENT,
    biases,
    decoder_config,
    model_arguments,
    sliding_window,
)

if TYPE_CHECKING:
    from clora_inspect.sources.reader import HFConfig

IS_SLIDING = {"sliding_attention": True, "full_attention": False}


def llama(hf: HFConfig) -> Conversion:
    """`LlamaForCausalLM`."""
    hf = hf.with_defaults(FAMILY_INDEPENDENT | {"max_position_embeddings": 2048})
    return _conversion(hf, biases(hf))


def mistral(hf: HFConfig) -> Conversion:
    """`MistralForCausalLM`: every layer has the window, if there is one."""
    defaults = {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096}
    hf = hf.with_defaults(FAMILY_INDEPENDENT | defaults)
    window = hf.optional_size("sliding_window") if hf.get("sliding_window") is not None else None
    return _conversion(hf, sliding_window(window, [True]) if window else {})


def qwen2(hf: HFConfig) -> Conversion:
    """`Qwen2ForCausalLM`: a bias on q, k and v, always."""
    hf = hf.with_defaults(FAMILY_INDEPENDENT | _QWEN)
    return _conversion(hf, {"add_qkv_bias": True} | qwen_window(hf))


def qwen3(hf: HFConfig) -> Conversion:
    """`Qwen3ForCausalLM`: a norm on every query and key head."""
    hf = hf.with_defaults(FAMILY_INDEPENDENT | _QWEN | {"head_dim": 128})
    return _conversion(hf, biases(hf) | {"qk_layernorm": True} | qwen_window(hf))


def nemotron(hf: HFConfig) -> Conversion:
    """`NemotronForCausalLM`: LayerNorm with a weight around one (`LayerNorm1P`), squared ReLU, no
    gate.
    """
    defaults = {
        "max_position_embeddings": 4096,
        "hidden_act": "relu2",
        "norm_eps": 1e-5,
        "initializer_range": 0.0134,
        "partial_rotary_factor": 0.5,
    }
    hf = hf.with_defaults(FAMILY_INDEPENDENT | defaults)
    norm = {
        "normalization": "LayerNorm",
        "layernorm_zero_centered_gamma": True,
        "layernorm_epsilon": hf.number("norm_eps"),
    }
    return _conversion(hf, biases(hf) | norm | {"gated_linear_unit": False})


def gemma2(hf: HFConfig) -> Conversion:
    """`Gemma2ForCausalLM`: norms after attention and MLP as well, soft-capped logits, a window in
    every second layer.
    """
    defaults = {
        "max_position_embeddings": 8192,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    hf = hf.with_defaults(FAMILY_INDEPENDENT | defaults)
    if hf.flag("attention_bias"):
        raise hf.error("attention_bias", "Gemma 2 with attention biases is not supported; no released model has them.")
    layers = hf.size("num_hidden_layers")
    sliding = _layer_types(hf) or [layer % 2 == 0 for layer in range(layers)]
    conversion = _conversion(
        hf,
        {
            "activation_func": hf.word("hidden_activation", ACTIVATIONS),
            "layernorm_zero_centered_gamma": True,
            "softmax_scale": hf.number("query_pre_attn_scalar") ** -0.5,
        }
        | sliding_window(hf.size("sliding_window"), sliding),
    )
    conversion.model["attn_logit_softcapping"] = hf.optional_number("attn_logit_softcapping")
    conversion.model["final_logit_softcapping"] = hf.optional_number("final_logit_softcapping")
    return Conversion(family="gemma2", config=conversion.config, model=conversion.model, notes=conversion.notes)


def qwen_window(hf: HFConfig) -> dict[str, Any]:
    """The window of the Qwen families: the layers from `max_window_layers` on, when it is switched
    on at all.
    """
    if not hf.flag("use_sliding_window") or hf.get("sliding_window") is None:
        return {}
    first = hf.count("max_window_layers")
    sliding = _layer_types(hf) or [layer >= first for layer in range(hf.size("num_hidden_layers"))]
    return sliding_window(hf.size("sliding_window"), sliding)


_QWEN = {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def _layer_types(hf: HFConfig) -> list[bool] | None:
    if hf.get("layer_types") is None:
        return None
    return hf.words("layer_types", IS_SLIDING, hf.size("num_hidden_layers"))


def _conversion(hf: HFConfig, fields: dict[str, Any]) -> Conversion:
    model, notes = model_arguments(hf)
    return Conversion(config=decoder_config(hf) | fields, model=model, notes=notes)
