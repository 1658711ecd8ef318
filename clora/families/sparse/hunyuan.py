"""Hunyuan, whose dense models have norms on query and key heads behind the rotary embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, attention_biases, decoder
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

HUNYUAN_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 290943,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}

NORMS_BEHIND_ROPE = (
    "Hugging Face normalises query and key heads behind the rotary embedding, and megatron-core before it. No "
    "parameter depends on it."
)


def hunyuan_v1_dense(hf: HFConfig) -> Conversion:
    """Convert a `HunYuanDenseV1ForCausalLM`."""
    hf = hf.with_defaults(HUNYUAN_DEFAULTS)
    bias, layers = attention_biases(hf)
    conversion = decoder(hf, bias | {"qk_layernorm": True}, layers=layers)
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, NORMS_BEHIND_ROPE))


def hunyuan_v1_moe(hf: HFConfig) -> Conversion:
    """Convert a `HunYuanMoEV1ForCausalLM`: experts in every layer, and a shared one as wide as
    `intermediate_size`, which is also the width of a routed one.
    """
    hf = hf.with_defaults(HUNYUAN_DEFAULTS | {"num_experts": 1, "moe_topk": 1})
    lists = [name for name in ("num_experts", "moe_topk") if isinstance(hf.get(name), list)]
    hf = msgspec.structs.replace(hf, values=hf.values | {name: _one_for_all_layers(hf, name) for name in lists})
    bias, layers = attention_biases(hf)
    fields = {
        "qk_layernorm": True,
        "moe_shared_expert_intermediate_size": hf.size("intermediate_size"),
        **softmax_router(hf, is_normalised=True, chosen="moe_topk"),
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
    }
    routed = routed_experts(hf, "num_experts", width="intermediate_size", chosen="moe_topk")
    conversion = decoder(hf, bias | routed | fields, layers=layers)
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, NORMS_BEHIND_ROPE))


def _one_for_all_layers(hf: HFConfig, field: str) -> int:
    """Return the value of a field that is a list with an entry for each layer."""
    entries = hf.sizes(field)
    if len(set(entries)) != 1:
        raise hf.error(field, "megatron-core has one number for all layers.")
    return entries[0]


FAMILIES = (
    Family(model_types=("hunyuan_v1_dense",), convert=hunyuan_v1_dense),
    Family(
        model_types=("hunyuan_v1_moe",),
        convert=hunyuan_v1_moe,
        names=LinearNames(experts="mlp.experts", shared_experts="mlp.shared_mlp"),
    ),
)
