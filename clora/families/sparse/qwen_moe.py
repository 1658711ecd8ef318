"""Qwen2-MoE, Qwen3-MoE, and Qwen3-Next and Qwen3.5, most of whose layers are gated delta nets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.families.base.decoder import attention_biases, decoder
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.linear_names import ATTENTION, LinearNames
from clora.families.dense.qwen import QWEN_DEFAULTS, qwen_window

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS: dict[str, Any] = {
    **QWEN_DEFAULTS,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": False,
    "router_aux_loss_coef": 0.001,
}


_QWEN3_5_DEFAULTS: dict[str, Any] = {
    **_DEFAULTS,
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}


def qwen3_moe(hf: HFConfig) -> Conversion:
    """Convert a `Qwen3MoeForCausalLM`."""
    defaults = {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    }
    return _qwen3_moe(hf.with_defaults(_DEFAULTS | defaults))


def qwen3_vl_moe_text(hf: HFConfig) -> Conversion:
    """Convert the text model of Qwen3-VL-MoE."""
    defaults = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "max_position_embeddings": 128000,
        "rope_theta": 5_000_000.0,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": True,
    }
    return _qwen3_moe(hf.with_defaults(_DEFAULTS | defaults))


def qwen3_omni_moe_text(hf: HFConfig) -> Conversion:
    """Convert the text model of Qwen3-Omni's thinker."""
    defaults = {
        "vocab_size": 3584,
        "hidden_size": 2048,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_theta": 1_000_000.0,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
    }
    return _qwen3_moe(hf.with_defaults(_DEFAULTS | defaults))


def _qwen3_moe(hf: HFConfig) -> Conversion:
    bias, layers = attention_biases(hf)
    return decoder(hf, bias | {"qk_layernorm": True} | qwen_window(hf) | _experts(hf), layers=layers)


def qwen2_moe(hf: HFConfig) -> Conversion:
    """Convert a `Qwen2MoeForCausalLM`: biases on q, k and v, and a shared expert with a gate."""
    defaults = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "qkv_bias": True,
    }
    hf = hf.with_defaults(_DEFAULTS | defaults)
    bias = {"add_qkv_bias": hf.flag("qkv_bias")}
    return decoder(hf, bias | _gated_shared_expert(hf) | qwen_window(hf) | _experts(hf))


def qwen3_next(hf: HFConfig) -> Conversion:
    """Convert a `Qwen3NextForCausalLM`: every fourth layer has gated attention, the others are
    gated delta nets, and the shared expert has a gate.
    """
    defaults = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "partial_rotary_factor": 0.25,
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "norm_topk_prob": True,
    }
    hf = hf.with_defaults(_DEFAULTS | defaults)
    bias, layers = attention_biases(hf)
    return decoder(hf, bias | gated_delta_nets(hf) | _gated_shared_expert(hf) | _experts(hf), layers=layers)


def qwen3_5(hf: HFConfig) -> Conversion:
    """Convert the text model of Qwen3.5: the layers of Qwen3-Next with a dense MLP."""
    hf = hf.with_defaults(_QWEN3_5_DEFAULTS)
    bias, layers = attention_biases(hf)
    return decoder(hf, bias | gated_delta_nets(hf), layers=layers)


def qwen3_5_moe(hf: HFConfig) -> Conversion:
    """Convert the text model of Qwen3.5 with experts in every layer."""
    defaults = {
        "hidden_size": 2048,
        # Not read: there is no dense MLP.
        "intermediate_size": 512,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "norm_topk_prob": True,
    }
    # This family does not read the fields that name dense layers.
    all_sparse = {"mlp_only_layers": [], "decoder_sparse_step": 1}
    hf = msgspec.structs.replace(hf.with_defaults(_QWEN3_5_DEFAULTS | defaults), values=hf.values | all_sparse)
    bias, layers = attention_biases(hf)
    return decoder(hf, bias | gated_delta_nets(hf) | _gated_shared_expert(hf) | _experts(hf), layers=layers)


def gated_delta_nets(hf: HFConfig) -> dict[str, Any]:
    """Return the fields of the attention blocks: gated attention and gated delta nets."""
    sizes = (
        "linear_conv_kernel_dim",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_num_key_heads",
        "linear_num_value_heads",
    )
    return {
        # megatron-core took the names of these fields over from Hugging Face.
        **{field: hf.size(field) for field in sizes},
        # The norms store their weight's difference from one.
        "layernorm_zero_centered_gamma": True,
        "qk_layernorm": True,
        "attention_output_gate": True,
        "experimental_attention_variant": "gated_delta_net",
        "linear_attention_freq": _linear_attention_freq(hf),
        # Layers of two kinds cannot share one stacked tensor in a checkpoint. The spelling is
        # megatron-core's.
        "hetereogenous_dist_checkpoint": True,
    }


def _gated_shared_expert(hf: HFConfig) -> dict[str, Any]:
    return {
        "moe_shared_expert_intermediate_size": hf.size("shared_expert_intermediate_size"),
        "moe_shared_expert_gate": True,
    }


def _experts(hf: HFConfig) -> dict[str, Any]:
    layers, step = hf.size("num_hidden_layers"), hf.size("decoder_sparse_step")
    # null is no dense layer.
    dense = set(hf.sizes("mlp_only_layers") if hf.get("mlp_only_layers") is not None else ())
    sparse = [int((layer + 1) % step == 0 and layer not in dense) for layer in range(layers)]
    if not any(sparse):
        raise hf.error("mlp_only_layers", "leaves no layer with experts; the dense model_type would be qwen3.")
    return routed_experts(hf, "num_experts", width="moe_intermediate_size") | {
        "moe_layer_freq": 1 if all(sparse) else sparse,
        # Hugging Face takes the softmax over all experts. If it normalises over the chosen ones
        # afterwards, that equals a softmax over the chosen ones alone.
        **softmax_router(hf, is_normalised=hf.flag("norm_topk_prob")),
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": hf.number("router_aux_loss_coef"),
    }


def _linear_attention_freq(hf: HFConfig) -> int | list[int]:
    """Return which layers are gated delta nets: an interval when that describes them, or else one
    entry for every layer.
    """
    interval = hf.size("full_attention_interval")
    if hf.get("layer_types") is None:
        return interval
    layers = hf.size("num_hidden_layers")
    linear: list[int] = hf.words("layer_types", {"linear_attention": 1, "full_attention": 0}, layers)
    by_interval = [int((layer + 1) % interval != 0) for layer in range(layers)]
    return interval if linear == by_interval else linear


_FOUR_LINEARS = {"in_proj": "Hugging Face cuts the gated delta net's in_proj in four linears"}
_WITH_DELTA_NETS = {**ATTENTION, "out_proj": "linear_attn.out_proj"}

FAMILIES = (
    Family(
        model_types=("qwen2_moe",),
        convert=qwen2_moe,
        names=LinearNames(experts="mlp.experts", shared_experts="mlp.shared_expert"),
    ),
    Family(model_types=("qwen3_moe",), convert=qwen3_moe, names=LinearNames(experts="mlp.experts")),
    Family(model_types=("qwen3_omni_moe_text",), convert=qwen3_omni_moe_text, names=LinearNames(experts="mlp.experts")),
    Family(
        model_types=("qwen3_next",),
        convert=qwen3_next,
        names=LinearNames(
            attention=_WITH_DELTA_NETS,
            experts="mlp.experts",
            shared_experts="mlp.shared_expert",
            has_output_gate=True,
            reasons={
                "in_proj": "Hugging Face cuts the gated delta net's in_proj in two linears whose rows are packed by "
                "key head"
            },
        ),
    ),
    Family(
        model_types=("qwen3_5_text",),
        convert=qwen3_5,
        names=LinearNames(attention=_WITH_DELTA_NETS, has_output_gate=True, reasons=_FOUR_LINEARS),
    ),
    Family(
        model_types=("qwen3_5_moe_text",),
        convert=qwen3_5_moe,
        names=LinearNames(
            attention=_WITH_DELTA_NETS,
            shared_experts="mlp.shared_expert",
            has_output_gate=True,
            has_packed_experts=True,
            reasons=_FOUR_LINEARS,
        ),
    ),
    Family(
        model_types=("qwen3_vl_moe_text",),
        convert=qwen3_vl_moe_text,
        names=LinearNames(has_packed_experts=True),
    ),
)
