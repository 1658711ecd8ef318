"""Mixtral: every MLP is a mixture of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder, sliding_window
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig


def mixtral(hf: HFConfig) -> Conversion:
    """Convert a `MixtralForCausalLM`."""
    defaults = {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
    }
    hf = hf.with_defaults(COMMON_DEFAULTS | defaults)
    windows = sliding_window(hf.optional_size("sliding_window"), [True])
    experts = routed_experts(hf, "num_local_experts", width="intermediate_size")
    losses = {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": hf.number("router_aux_loss_coef")}
    return decoder(hf, experts | softmax_router(hf, is_normalised=True) | losses | windows)


FAMILIES = (
    Family(
        model_types=("mixtral",),
        convert=mixtral,
        # w1 is the gate, w3 the up and w2 the down projection.
        names=LinearNames(experts="block_sparse_moe.experts", expert_projections=("w1", "w3", "w2")),
    ),
)
