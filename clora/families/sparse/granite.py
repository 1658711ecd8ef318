"""Granite: Llama, or a mixture of experts, with constant factors on embeddings, residuals,
attention scores and logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.decoder import COMMON_DEFAULTS, attention_biases, biases, decoder
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.linear_names import FUSED_INPUT, LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig
    from clora.families.base.layer_form import LayerForm

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}


_MOE_DEFAULTS = {
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.001,
    "shared_intermediate_size": 0,
}


def granite(hf: HFConfig) -> Conversion:
    """Convert a `GraniteForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    return _granite(hf, *biases(hf))


def granite_moe(hf: HFConfig) -> Conversion:
    """Convert a `GraniteMoeForCausalLM` or a `GraniteMoeSharedForCausalLM`: experts in every layer,
    and perhaps a shared one.
    """
    # Its class does not read `head_dim`.
    hf = hf.without("head_dim").with_defaults(_DEFAULTS | _MOE_DEFAULTS)
    bias, layers = attention_biases(hf)
    has_shared = hf.text("model_type") == "granitemoeshared"
    experts = routed_experts(hf, "num_local_experts", width="intermediate_size") | {
        "moe_shared_expert_intermediate_size": (hf.count("shared_intermediate_size") if has_shared else 0) or None,
        **softmax_router(hf, is_normalised=True),
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": hf.number("router_aux_loss_coef"),
    }
    return _granite(hf, bias | experts, layers)


def _granite(hf: HFConfig, fields: dict[str, Any], layers: LayerForm) -> Conversion:
    factors: dict[str, float | None] = {
        "embedding_multiplier": hf.number("embedding_multiplier"),
        "residual_multiplier": hf.number("residual_multiplier"),
        "logits_divisor": hf.positive_number("logits_scaling"),
    }
    if factors["logits_divisor"] == 0:
        raise hf.error("logits_scaling", "the logits are divided by it.")
    return decoder(hf, fields | {"softmax_scale": hf.number("attention_multiplier")}, layers=layers, factors=factors)


FAMILIES = (
    Family(model_types=("granite",), convert=granite),
    Family(
        model_types=("granitemoe", "granitemoeshared"),
        convert=granite_moe,
        names=LinearNames(projections=FUSED_INPUT, shared_experts="shared_mlp", has_packed_experts=True),
    ),
)
