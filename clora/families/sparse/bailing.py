"""Ling and Ring (Bailing MoE): experts behind ordinary attention, whose q, k and v are one linear.
They are in no release of transformers: their code comes with the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames
from clora.families.base.prediction import with_prediction_layers

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_V2 = {
    **COMMON_DEFAULTS,
    "vocab_size": 157184,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "rope_theta": 600_000.0,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "moe_intermediate_size": 512,
    "first_k_dense_replace": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 1.0,
    "num_nextn_predict_layers": 0,
}
_V1 = {
    **_V2,
    "vocab_size": 30592,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 16384,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-5,
    "use_bias": True,
    "use_qk_norm": False,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_shared_experts": None,
    "first_k_dense_replace": 0,
    "norm_topk_prob": True,
    "norm_head": False,
}


def bailing_moe_v2(hf: HFConfig) -> Conversion:
    """Convert a `BailingMoeV2ForCausalLM` (Ling 2.0)."""
    hf = hf.with_defaults(_V2)
    scores = {
        # The scores of the chosen experts are always normalised.
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_topk_scaling_factor": hf.number("routed_scaling_factor"),
        "moe_router_pre_softmax": True,
    }
    return with_prediction_layers(hf, _bailing(hf, scores | _groups(hf)))


def bailing_moe(hf: HFConfig) -> Conversion:
    """Convert a `BailingMoeForCausalLM` (Ling 1), or a Ling 2.0, whose files say this model_type as
    well.
    """
    named = hf.get("architectures")
    if (isinstance(named, list) and named[:1] == ["BailingMoeV2ForCausalLM"]) or hf.get("score_function") == "sigmoid":
        return bailing_moe_v2(hf)
    hf = hf.with_defaults(_V1)
    if hf.flag("norm_head"):
        raise hf.error("norm_head", "an output layer whose weight is normalised cannot be built.")
    return _bailing(hf, softmax_router(hf, is_normalised=hf.flag("norm_topk_prob")))


def _bailing(hf: HFConfig, scores: dict[str, Any]) -> Conversion:
    if hf.flag("use_bias"):
        raise hf.error("use_bias", "biases on all linears are not supported; no released model has them.")
    layers, dense = hf.size("num_hidden_layers"), hf.count("first_k_dense_replace")
    sparse = [int(layer >= dense) for layer in range(layers)]
    if not any(sparse):
        raise hf.error("first_k_dense_replace", "leaves no layer with experts.")
    shared = hf.count("num_shared_experts") if hf.get("num_shared_experts") is not None else 0
    fields = {
        "add_qkv_bias": hf.flag("use_qkv_bias"),
        "qk_layernorm": hf.flag("use_qk_norm"),
        "moe_layer_freq": 1 if all(sparse) else sparse,
        # megatron-core has one shared expert, as wide as all of the family's together.
        "moe_shared_expert_intermediate_size": shared * hf.size("moe_intermediate_size") if shared else None,
        "moe_router_dtype": "fp32",
    }
    experts = routed_experts(hf, "num_experts", width="moe_intermediate_size")
    return decoder(hf, experts | fields | scores)


def _groups(hf: HFConfig) -> dict[str, Any]:
    groups = hf.optional_size("n_group") or 1
    if groups == 1:
        return {}
    if hf.size("num_experts") % groups:
        raise hf.error("n_group", f"must divide num_experts = {hf.size('num_experts')}.")
    if hf.size("topk_group") > groups:
        raise hf.error("topk_group", f"cannot exceed n_group = {groups}.")
    return {"moe_router_num_groups": groups, "moe_router_group_topk": hf.size("topk_group")}


_NAMES = LinearNames(
    attention={"linear_proj": "attention.dense"},
    experts="mlp.experts",
    shared_experts="mlp.shared_experts",
    reasons={"linear_qkv": "q, k and v are one linear there, query_key_value, and PEFT has one adapter a linear"},
)

FAMILIES = (
    Family(model_types=("bailing_moe",), convert=bailing_moe, names=_NAMES),
    Family(model_types=("bailing_moe_v2",), convert=bailing_moe_v2, names=_NAMES),
)
