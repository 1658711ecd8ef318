"""DeepSeek-V2, DeepSeek-V3 and Kimi K2: multi-latent attention, shared experts, group-limited
routing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.sources.families.conversion import Conversion
from clora_inspect.sources.families.decoder import FAMILY_INDEPENDENT, decoder_config, model_arguments
from clora_inspect.sources.families.moe import router
from clora_inspect.sources.families.rope import YARN_DEFAULTS, rope_scaling, rope_theta

if TYPE_CHECKING:
    from clora_inspect.sources.reader import HFConfig

SPLITS_OF_61_LAYERS = {4: (16, 16, 16, 13), 8: (*[8] * 7, 5), 16: (*[4] * 15, 1)}
"""The last stage also has the output layer, the loss and, where it is built, the
multi-token-prediction layer.
"""

_MLA = {
    **FAMILY_INDEPENDENT,
    "max_position_embeddings": 4096,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_layer_freq": 1,
    "aux_loss_alpha": 0.001,
    "seq_aux": True,
    "num_nextn_predict_layers": 0,
}


def deepseek_v2(hf: HFConfig) -> Conversion:
    """`DeepseekV2ForCausalLM`: softmax scores, not normalised over the chosen experts."""
    defaults = {
        "max_position_embeddings": 2048,
        "first_k_dense_replace": 0,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "n_group": None,
        "topk_group": None,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "moe_intermediate_size": 1407,
    }
    return _deepseek(hf.with_defaults(_MLA | defaults))


def deepseek_v3(hf: HFConfig) -> Conversion:
    """`DeepseekV3ForCausalLM`, and Kimi K2, which is one: sigmoid scores and a bias that balances
    the experts.
    """
    defaults = {
        "first_k_dense_replace": 3,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "n_group": 8,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "num_experts_per_tok": 8,
        "routed_scaling_factor": 2.5,
        "moe_intermediate_size": 2048,
    }
    return _deepseek(hf.with_defaults(_MLA | defaults))


def _deepseek(hf: HFConfig) -> Conversion:
    if hf.flag("attention_bias"):
        raise hf.error("attention_bias", "DeepSeek with attention biases is not supported; no released model has them.")
    config = decoder_config(hf.with_defaults(hf.defaults | {"head_dim": hf.size("qk_rope_head_dim")}))
    model, _ = model_arguments(hf)
    for rotary in [name for name in model if name.startswith(("rotary_", "rope_", "yarn_", "seq_len_"))]:
        del model[rotary]
    rope, notes = _rope(hf)
    return Conversion(
        config=config | _latent_attention(hf) | rope | _experts(hf, config["num_layers"]),
        model=model | {"position_embedding_type": "rope"},
        notes=(*notes, *_prediction_layers(hf)),
        pipeline_splits=SPLITS_OF_61_LAYERS if config["num_layers"] == sum(SPLITS_OF_61_LAYERS[4]) else {},
    )


def _latent_attention(hf: HFConfig) -> dict[str, Any]:
    return {
        "multi_latent_attention": True,
        "qk_layernorm": True,
        "q_lora_rank": hf.optional_size("q_lora_rank"),
        "kv_lora_rank": hf.size("kv_lora_rank"),
        "qk_head_dim": hf.size("qk_nope_head_dim"),
        "qk_pos_emb_head_dim": hf.size("qk_rope_head_dim"),
        "v_head_dim": hf.size("v_head_dim"),
    }


def _rope(hf: HFConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Latent attention has its own rotary embedding, configured in `MLATransformerConfig`;
    unscaled, it is YaRN with a factor of 1.
    """
    plain = {
        "rope_type": "yarn",
        "rotary_base": rope_theta(hf),
        "rotary_scaling_factor": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    kind, scaling = rope_scaling(hf)
    if scaling is None:
        return plain, ()
    if kind != "yarn":
        return plain, (
            f"Latent attention has no RoPE scaling of type {kind!r}: plain RoPE is built. No parameter depends on it.",
        )
    scaling = scaling.with_defaults(
        YARN_DEFAULTS
        | {"mscale": 1.0, "mscale_all_dim": 0.0, "original_max_position_embeddings": hf.get("max_position_embeddings")}
    )
    return plain | {
        "rotary_scaling_factor": scaling.number("factor"),
        "original_max_position_embeddings": scaling.size("original_max_position_embeddings"),
        "beta_fast": scaling.number("beta_fast"),
        "beta_slow": scaling.number("beta_slow"),
        "mscale": scaling.number("mscale"),
        "mscale_all_dim": scaling.number("mscale_all_dim"),
    }, ()


def _experts(hf: HFConfig, layers: int) -> dict[str, Any]:
    fields = router(hf, "n_routed_experts", width="moe_intermediate_size")
    step, dense = hf.size("moe_layer_freq"), hf.count("first_k_dense_replace")
    sparse = [int(layer >= dense and layer % step == 0) for layer in range(layers)]
    shared = hf.count("n_shared_experts")
    return fields | {
        "moe_layer_freq": 1 if all(sparse) else sparse,
        "moe_shared_expert_intermediate_size": shared * hf.size("moe_intermediate_size") if shared else None,
        "moe_router_load_balancing_type": "seq_aux_loss" if hf.flag("seq_aux") else "aux_loss",
        "moe_aux_loss_coeff": hf.number("aux_loss_alpha"),
        "moe_router_dtype": "fp32",
        **_scores(hf),
        **_groups(hf, fields["num_moe_experts"]),
    }


def _scores(hf: HFConfig) -> dict[str, Any]:
    """Sigmoid scores are always normalised by megatron-core; softmax scores are when the softmax
    comes after the choice.
    """
    function = hf.word("scoring_func", {"softmax": "softmax", "sigmoid": "sigmoid"})
    return {
        "moe_router_score_function": function,
        "moe_router_pre_softmax": function == "sigmoid" or not hf.flag("norm_topk_prob"),
        "moe_router_topk_scaling_factor": hf.number("routed_scaling_factor"),
        "moe_router_enable_expert_bias": hf.text("topk_method") == "noaux_tc",
    }


def _groups(hf: HFConfig, num_experts: int) -> dict[str, Any]:
    """Group-limited routing; one group is no limit.

    Raises:
        ModelError: groups that do not divide the experts, or more groups to choose than there are.
    """
    groups = hf.optional_size("n_group") or 1
    if hf.text("topk_method") == "greedy" or groups == 1:
        return {}
    chosen = hf.size("topk_group")
    if num_experts % groups:
        raise hf.error("n_group", f"must divide n_routed_experts = {num_experts}.")
    if chosen > groups:
        raise hf.error("topk_group", f"cannot exceed n_group = {groups}.")
    return {"moe_router_num_groups": groups, "moe_router_group_topk": chosen}


def _prediction_layers(hf: HFConfig) -> tuple[str, ...]:
    """The multi-token-prediction layers are no part of the model that Hugging Face loads, and
    fine-tuning drops them.
    """
    layers = hf.count("num_nextn_predict_layers")
    if not layers:
        return ()
    verb, them = ("is", "it") if layers == 1 else ("are", "them")
    note = (
        f"The config names {layers} multi-token-prediction layer{'s' * (layers > 1)} (num_nextn_predict_layers), which {verb} not built, "
        f"as in Hugging Face. Add --set model.mtp_num_layers={layers} to build {them}."
    )
    return (note,)
