"""Qwen3-MoE, Qwen3-Next, Mixtral and gpt-oss: decoders with experts behind a softmax router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.sources.families.conversion import Conversion
from clora_inspect.sources.families.decoder import (
    FAMILY_INDEPENDENT,
    biases,
    decoder_config,
    model_arguments,
    sliding_window,
)
from clora_inspect.sources.families.dense import IS_SLIDING, qwen_window

if TYPE_CHECKING:
    from clora_inspect.sources.reader import HFConfig

GROUPED = {"moe_grouped_gemm": True, "moe_token_dispatcher_type": "alltoall"}
"""One grouped linear for a rank's experts, as every large job has it; `moe_grouped_gemm=false`
gives sequential experts.
"""

_QWEN_MOE = {
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": False,
    "router_aux_loss_coef": 0.001,
}


def qwen3_moe(hf: HFConfig) -> Conversion:
    """`Qwen3MoeForCausalLM`."""
    defaults = {"num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
    hf = hf.with_defaults(FAMILY_INDEPENDENT | _QWEN_MOE | defaults)
    model, notes = model_arguments(hf)
    fields = biases(hf) | {"qk_layernorm": True} | qwen_window(hf) | _qwen_experts(hf)
    return Conversion(config=decoder_config(hf) | fields, model=model, notes=notes)


def qwen3_next(hf: HFConfig) -> Conversion:
    """`Qwen3NextForCausalLM`: gated delta nets, with gated attention in every fourth layer, and a
    gated shared expert.
    """
    defaults = {
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
    hf = hf.with_defaults(FAMILY_INDEPENDENT | _QWEN_MOE | defaults)
    if hf.flag("attention_bias"):
        raise hf.error(
            "attention_bias", "Qwen3-Next with attention biases is not supported; no released model has them."
        )
    linear = {field: hf.size(field) for field in defaults if field.startswith("linear_")}
    fields = {
        "layernorm_zero_centered_gamma": True,
        "qk_layernorm": True,
        "attention_output_gate": True,
        "experimental_attention_variant": "gated_delta_net",
        "linear_attention_freq": _linear_attention_freq(hf),
        "moe_shared_expert_intermediate_size": hf.size("shared_expert_intermediate_size"),
        "moe_shared_expert_gate": True,
        "hetereogenous_dist_checkpoint": True,
    }
    model, notes = model_arguments(hf)
    return Conversion(config=decoder_config(hf) | linear | fields | _qwen_experts(hf), model=model, notes=notes)


def mixtral(hf: HFConfig) -> Conversion:
    """`MixtralForCausalLM`: the experts have the width of the MLP."""
    defaults = {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
    }
    hf = hf.with_defaults(FAMILY_INDEPENDENT | defaults)
    window = hf.optional_size("sliding_window")
    fields = router(hf, "num_local_experts", width="intermediate_size") | {
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": hf.number("router_aux_loss_coef"),
    }
    model, notes = model_arguments(hf)
    windows = sliding_window(window, [True]) if window else {}
    return Conversion(config=decoder_config(hf) | fields | windows, model=model, notes=notes)


def gpt_oss(hf: HFConfig) -> Conversion:
    """`GptOssForCausalLM`: biases everywhere, a learned sink in every attention head, clamped gated
    quick-GELU.
    """
    defaults = {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
        "attention_bias": True,
        "sliding_window": 128,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "swiglu_limit": 7.0,
    }
    hf = hf.with_defaults(FAMILY_INDEPENDENT | defaults)
    if not hf.flag("attention_bias"):
        raise hf.error(
            "attention_bias",
            "gpt-oss without attention biases cannot be built: megatron-core would drop the experts' too.",
        )
    layers = hf.size("num_hidden_layers")
    sliding = [layer % 2 == 0 for layer in range(layers)]
    if hf.get("layer_types") is not None:
        sliding = hf.words("layer_types", IS_SLIDING, layers)
    fields = {
        "add_bias_linear": True,
        "activation_func": "quick_gelu",
        "activation_func_clamp_value": hf.number("swiglu_limit"),
        "glu_linear_offset": 1.0,
        "softmax_type": "learnable",
        "moe_router_load_balancing_type": "none",
    }
    experts = router(hf, "num_local_experts", width="intermediate_size")
    model, notes = model_arguments(hf)
    windows = sliding_window(hf.size("sliding_window"), sliding)
    return Conversion(config=decoder_config(hf) | experts | fields | windows, model=model, notes=notes)


def router(hf: HFConfig, experts: str, *, width: str) -> dict[str, Any]:
    """Experts of the given `width` field behind a top-k router.

    Raises:
        ModelError: more experts per token than experts.
    """
    num_experts, topk = hf.size(experts), hf.size("num_experts_per_tok")
    if topk > num_experts:
        raise hf.error("num_experts_per_tok", f"cannot exceed {experts} = {num_experts}.")
    return {
        **GROUPED,
        "num_moe_experts": num_experts,
        "moe_router_topk": topk,
        "moe_ffn_hidden_size": hf.size(width),
        "moe_layer_freq": 1,
    }


def _qwen_experts(hf: HFConfig) -> dict[str, Any]:
    """The experts of the Qwen families. Probabilities that are not normalised over the chosen
    experts are a softmax over all of them.
    """
    layers, step = hf.size("num_hidden_layers"), hf.size("decoder_sparse_step")
    dense = set(hf.sizes("mlp_only_layers"))
    sparse = [int((layer + 1) % step == 0 and layer not in dense) for layer in range(layers)]
    if not any(sparse):
        raise hf.error("mlp_only_layers", "leaves no layer with experts; the dense model_type would be qwen3.")
    return router(hf, "num_experts", width="moe_intermediate_size") | {
        "moe_layer_freq": 1 if all(sparse) else sparse,
        "moe_router_pre_softmax": not hf.flag("norm_topk_prob"),
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": hf.number("router_aux_loss_coef"),
    }


def _linear_attention_freq(hf: HFConfig) -> int | list[int]:
    """Which layers are gated delta nets: an interval, or one entry for every layer where the config
    lists them otherwise.
    """
    interval = hf.size("full_attention_interval")
    if hf.get("layer_types") is None:
        return interval
    layers = hf.size("num_hidden_layers")
    linear: list[int] = hf.words("layer_types", {"linear_attention": 1, "full_attention": 0}, layers)
    by_interval = [int((layer + 1) % interval != 0) for layer in range(layers)]
    return interval if linear == by_interval else linear
