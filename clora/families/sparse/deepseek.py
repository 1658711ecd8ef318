"""DeepSeek-V2, V3, V3.2 and Kimi K2: latent attention, shared experts, routing by groups."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from clora.families.base.conversion import Conversion
from clora.families.base.decoder import COMMON_DEFAULTS, decoder_config, model_sizes, refuse_attention_bias
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.linear_names import LinearNames
from clora.families.base.rope import YARN_DEFAULTS, rope_scaling, rope_theta

if TYPE_CHECKING:
    from clora.families.base.hf_config import HFConfig

# The last stage gets fewer layers: it also has the output layer, the loss and, if it is built, the
# multi-token-prediction layer.
SPLITS_OF_61_LAYERS = {4: (16, 16, 16, 13), 8: (*[8] * 7, 5), 16: (*[4] * 15, 1)}

_MLA = {
    **COMMON_DEFAULTS,
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


DEEPSEEK_ROUTING = {
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    # The bias on the scores balances the experts.
    "aux_loss_alpha": 0.0,
    "seq_aux": True,
}
"""Defaults of families that took DeepSeek-V3's router over."""

_V3 = {
    **_MLA,
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
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


def deepseek_v2(hf: HFConfig) -> Conversion:
    """Convert a `DeepseekV2ForCausalLM`: softmax scores, not normalised over the chosen experts."""
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
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
    hf = hf.with_defaults(_MLA | defaults)
    # DeepSeek-V3's class does not read it.
    if hf.flag("mlp_bias"):
        raise hf.error("mlp_bias", "cannot be built: megatron-core has no biases in the MLP alone.")
    return _deepseek(hf)


def deepseek_v3(hf: HFConfig) -> Conversion:
    """Convert a `DeepseekV3ForCausalLM`: sigmoid scores, and a bias that balances the experts.

    Kimi K2 has the same architecture.
    """
    return _deepseek(hf.with_defaults(_V3))


def deepseek_v32(hf: HFConfig) -> Conversion:
    """Convert a `DeepseekV32ForCausalLM`: DeepSeek-V3 whose attention sees the keys that an indexer
    chooses. The indexer is built, and frozen.
    """
    defaults = {
        "max_position_embeddings": 163840,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
        "mlp_layer_types": None,
    }
    return _sparse_attention(hf.with_defaults(_V3 | defaults))


def glm_moe_dsa(hf: HFConfig) -> Conversion:
    """Convert a `GlmMoeDsaForCausalLM` (GLM-5) whose layers all have an indexer of their own."""
    defaults = {
        "vocab_size": 154880,
        "hidden_size": 6144,
        "intermediate_size": 12288,
        "num_hidden_layers": 78,
        "num_attention_heads": 64,
        "q_lora_rank": 2048,
        "v_head_dim": 256,
        "qk_nope_head_dim": 192,
        "n_group": 1,
        "topk_group": 1,
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_topk": 2048,
        "index_topk_freq": 1,
        "mlp_layer_types": None,
    }
    hf = hf.with_defaults(_V3 | defaults)
    types = hf.get("indexer_types")
    every = types is None or all(kind == "full" for kind in types)
    if not every or hf.get("index_topk_pattern") is not None or hf.size("index_topk_freq") > 1:
        field = "indexer_types" if not every else "index_topk_pattern"
        raise hf.error(
            field if hf.get(field) is not None else "index_topk_freq",
            "layers that take over the keys of the layer before cannot be built: every layer of megatron-core has an "
            "indexer of its own.",
        )
    return _sparse_attention(hf)


def glm4_moe_lite(hf: HFConfig) -> Conversion:
    """Convert a `Glm4MoeLiteForCausalLM` (GLM-4.7-Flash)."""
    defaults = {
        "vocab_size": 154880,
        "hidden_size": 2048,
        "intermediate_size": 10240,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 47,
        "num_attention_heads": 20,
        "q_lora_rank": 768,
        "v_head_dim": 256,
        "qk_nope_head_dim": 192,
        "n_routed_experts": 64,
        "num_experts_per_tok": 4,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.8,
        "max_position_embeddings": 202752,
        "rms_norm_eps": 1e-5,
        "first_k_dense_replace": 1,
        "mlp_layer_types": None,
    }
    # Its class does not read `first_k_dense_replace`, and takes `head_dim` for the rotary part.
    rotary = hf.optional_size("head_dim")
    hf = hf.without("first_k_dense_replace", *(["qk_rope_head_dim"] if rotary else []))
    return _deepseek(hf.with_defaults(_V3 | defaults | ({"qk_rope_head_dim": rotary} if rotary else {})))


def _sparse_attention(hf: HFConfig) -> Conversion:
    """Return DeepSeek-V3's conversion with an indexer in every layer."""
    if hf.optional_size("q_lora_rank") is None:
        raise hf.error("q_lora_rank", "the indexer reads the compressed query, so there must be one.")
    width = hf.size("index_head_dim")
    # A Hadamard transform, which both classes apply to the indexer's heads, needs a power of two.
    if width & (width - 1) or width < hf.size("qk_rope_head_dim"):
        raise hf.error("index_head_dim", "must be a power of two, and no less than qk_rope_head_dim.")
    conversion = _deepseek(hf)
    indexer = {
        "experimental_attention_variant": "dsa",
        "dsa_indexer_n_heads": hf.size("index_n_heads"),
        "dsa_indexer_head_dim": width,
        "dsa_indexer_topk": hf.size("index_topk"),
        # The loss by which the indexer learns is for training the whole model.
        "dsa_indexer_loss_coeff": 0.0,
    }
    return msgspec.structs.replace(
        conversion, config=conversion.config | indexer, notes=(*conversion.notes, _INDEXER_NOTE)
    )


_INDEXER_NOTE = (
    "megatron-core's indexer reads the compressed query before its norm, and Hugging Face's behind it; the two also "
    "rotate other channels of its heads. No parameter depends on it."
)


def _deepseek(hf: HFConfig) -> Conversion:
    refuse_attention_bias(hf, "DeepSeek")
    # Latent attention has head widths of its own and does not read kv_channels; transformers sets
    # its head_dim like this.
    config = decoder_config(hf.with_defaults(hf.defaults | {"head_dim": hf.size("qk_rope_head_dim")}))
    rope, notes = _rope(hf)
    return Conversion(
        config=config | _latent_attention(hf) | rope | deepseek_experts(hf, config["num_layers"]),
        model=model_sizes(hf) | {"position_embedding_type": "rope"},
        layers=LayerForm(has_latent_norm_alone=hf.optional_size("q_lora_rank") is None),
        notes=(*notes, *prediction_layers_note(hf)),
        pipeline_splits=SPLITS_OF_61_LAYERS if config["num_layers"] == sum(SPLITS_OF_61_LAYERS[4]) else {},
    )


def _latent_attention(hf: HFConfig) -> dict[str, Any]:
    nope, rotated = hf.size("qk_nope_head_dim"), hf.size("qk_rope_head_dim")
    if rotated % 2:
        raise hf.error("qk_rope_head_dim", "must be even: channels are rotated in pairs.")
    # transformers reads the sum too, which its files hold, and builds heads of that width.
    if hf.get("qk_head_dim") not in (None, nope + rotated):
        raise hf.error("qk_head_dim", f"qk_nope_head_dim + qk_rope_head_dim is {nope + rotated}, and they must agree.")
    return {
        "multi_latent_attention": True,
        "qk_layernorm": True,
        "q_lora_rank": hf.optional_size("q_lora_rank"),
        "kv_lora_rank": hf.size("kv_lora_rank"),
        "qk_head_dim": nope,
        "qk_pos_emb_head_dim": rotated,
        "v_head_dim": hf.size("v_head_dim"),
    }


def _rope(hf: HFConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return fields of `MLATransformerConfig`, which configures the rotary embedding of latent
    attention, and notes.
    """
    # With a factor of 1, YaRN is the plain embedding.
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


def deepseek_experts(hf: HFConfig, layers: int) -> dict[str, Any]:
    """Return the fields of the routed and the shared experts, in all layers but the first ones."""
    fields = routed_experts(hf, "n_routed_experts", width="moe_intermediate_size")
    sparse = _sparse_layers(hf, layers)
    # null is no shared expert.
    shared = hf.count("n_shared_experts") if hf.get("n_shared_experts") is not None else 0
    return fields | {
        "moe_layer_freq": 1 if all(sparse) else sparse,
        # megatron-core has one shared expert, as wide as all of Hugging Face's together.
        "moe_shared_expert_intermediate_size": shared * hf.size("moe_intermediate_size") if shared else None,
        "moe_router_load_balancing_type": "seq_aux_loss" if hf.flag("seq_aux") else "aux_loss",
        "moe_aux_loss_coeff": hf.number("aux_loss_alpha"),
        # Hugging Face computes the scores in fp32 whatever the model's dtype.
        "moe_router_dtype": "fp32",
        **_scores(hf),
        **_groups(hf, fields["num_moe_experts"]),
    }


def _sparse_layers(hf: HFConfig, layers: int) -> list[int]:
    """Return for each layer whether it has experts: as `mlp_layer_types` says in families that read
    it, or else all behind the first dense ones.
    """
    # Classes that do not know the field have no default for it.
    if "mlp_layer_types" in hf.defaults and hf.get("mlp_layer_types") is not None:
        sparse = hf.words("mlp_layer_types", {"dense": 0, "sparse": 1}, layers)
    else:
        step, dense = hf.size("moe_layer_freq"), hf.count("first_k_dense_replace")
        sparse = [int(layer >= dense and layer % step == 0) for layer in range(layers)]
    return sparse


def _scores(hf: HFConfig) -> dict[str, Any]:
    function = hf.word("scoring_func", {"softmax": "softmax", "sigmoid": "sigmoid"})
    return {
        "moe_router_score_function": function,
        # megatron-core always normalises sigmoid scores over the chosen experts. It normalises
        # softmax scores only if the softmax comes after the choice.
        **softmax_router(hf, is_normalised=function == "softmax" and hf.flag("norm_topk_prob")),
        "moe_router_topk_scaling_factor": hf.number("routed_scaling_factor"),
        "moe_router_enable_expert_bias": hf.text("topk_method") == "noaux_tc",
    }


def _groups(hf: HFConfig, num_experts: int) -> dict[str, Any]:
    """Return the fields of group-limited routing; none for a single group, which limits nothing.

    Raises:
        ModelError: the groups do not divide the experts, or are fewer than are to be chosen.
    """
    groups = hf.optional_size("n_group") or 1
    # "greedy" chooses among all experts and does not read the groups.
    if hf.text("topk_method") == "greedy" or groups == 1:
        return {}
    chosen = hf.size("topk_group")
    if num_experts % groups:
        raise hf.error("n_group", f"must divide n_routed_experts = {num_experts}.")
    if chosen > groups:
        raise hf.error("topk_group", f"cannot exceed n_group = {groups}.")
    return {"moe_router_num_groups": groups, "moe_router_group_topk": chosen}


def prediction_layers_note(hf: HFConfig, *, can_be_built: bool = True) -> tuple[str, ...]:
    """Say that the multi-token-prediction layers are not built; nothing when there are none.

    Args:
        hf: the config, over its family's defaults.
        can_be_built: whether megatron-core has such layers for this kind of model.
    """
    # Hugging Face does not load the multi-token-prediction layers, and fine-tuning drops them.
    layers = hf.count("num_nextn_predict_layers")
    if not layers:
        return ()
    verb, them = ("is", "it") if layers == 1 else ("are", "them")
    way = f"Add --set model.mtp_num_layers={layers} to build {them}." if can_be_built else f"MambaModel lacks {them}."
    note = (
        f"The config names {layers} multi-token-prediction layer{'s' * (layers > 1)} (num_nextn_predict_layers), "
        f"which {verb} not built, as in Hugging Face. {way}"
    )
    return (note,)


_NAMES = LinearNames(
    attention={
        "linear_q_proj": "self_attn.q_proj",
        "linear_q_down_proj": "self_attn.q_a_proj",
        "linear_q_up_proj": "self_attn.q_b_proj",
        "linear_kv_down_proj": "self_attn.kv_a_proj_with_mqa",
        "linear_kv_up_proj": "self_attn.kv_b_proj",
        "linear_proj": "self_attn.o_proj",
    },
    experts="mlp.experts",
    shared_experts="mlp.shared_experts",
)

_WITH_INDEXER = replace(
    _NAMES,
    reasons=dict.fromkeys(
        ("linear_wq_b", "linear_wk", "linear_weights_proj"),
        "the indexer only chooses keys, so no gradient reaches its adapter",
    ),
)

FAMILIES = (
    Family(model_types=("deepseek_v2",), convert=deepseek_v2, names=_NAMES),
    Family(model_types=("deepseek_v3", "kimi_k2"), convert=deepseek_v3, names=_NAMES),
    Family(model_types=("deepseek_v32",), convert=deepseek_v32, names=_WITH_INDEXER),
    Family(model_types=("glm_moe_dsa",), convert=glm_moe_dsa, names=_WITH_INDEXER),
    Family(model_types=("glm4_moe_lite",), convert=glm4_moe_lite, names=_NAMES),
)
