"""MiniMax-M2: experts with sigmoid scores, and norms over all heads of q and k together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.experts import routed_experts
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.linear_names import LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 200064,
    "hidden_size": 3072,
    "intermediate_size": 1536,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 196608,
    "rope_theta": 5_000_000.0,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
    "num_mtp_modules": 0,
    "use_mtp": True,
}


def minimax_m2(hf: HFConfig) -> Conversion:
    """Convert a `MiniMaxM2ForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    rotary = hf.optional_size("rotary_dim")
    if rotary is not None and "partial_rotary_factor" not in hf.values:
        # Released files give the width of the rotary part.
        share = {"partial_rotary_factor": rotary / hf.size("head_dim")}
        hf = msgspec.structs.replace(hf, values=hf.values | share)
    fields = {
        "qk_layernorm": True,
        "moe_router_score_function": "sigmoid",
        "moe_router_pre_softmax": True,
        "moe_router_enable_expert_bias": True,
        # The bias on the scores balances the experts.
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
    }
    routed = routed_experts(hf, "num_local_experts", width="intermediate_size")
    conversion = decoder(hf, routed | fields, layers=LayerForm(has_whole_qk_norms=True))
    modules = hf.count("num_mtp_modules")
    if not (modules and hf.flag("use_mtp")):
        return conversion
    note = f"The {modules} multi-token-prediction modules (num_mtp_modules) are not built, as in Hugging Face."
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, note))


FAMILIES = (
    Family(
        model_types=("minimax_m2",),
        convert=minimax_m2,
        names=LinearNames(experts="block_sparse_moe.experts", expert_projections=("w1", "w3", "w2")),
    ),
)
