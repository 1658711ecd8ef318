"""Granite: Llama, or a mixture of experts, with constant factors on embeddings, residuals,
attention scores and logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

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
    shared = (hf.count("shared_intermediate_size") if has_shared else 0) or None
    experts = _experts(hf) | {"moe_shared_expert_intermediate_size": shared}
    return _granite(hf, bias | experts, layers)


def granite_hybrid(hf: HFConfig) -> Conversion:
    """Convert a `GraniteMoeHybridForCausalLM` (Granite 4) whose layers all have attention.

    Raises:
        ModelError: it has Mamba layers. megatron-core builds a Mamba layer and the MLP behind it as
            two layers, and multiplies the output of neither.
    """
    defaults = {"num_local_experts": 8, "shared_intermediate_size": 1024, "layer_types": None}
    # Its class does not read `head_dim`.
    hf = hf.without("head_dim").with_defaults(_DEFAULTS | _MOE_DEFAULTS | defaults)
    field = "layer_types" if "layers_block_type" not in hf.values else "layers_block_type"
    types = hf.get(field)
    # Without the list all layers are Mamba's.
    if not isinstance(types, list) or any(kind != "attention" for kind in types):
        raise hf.error(
            field,
            "layers of Mamba cannot be built: megatron-core makes a layer of Mamba and its MLP two layers, and "
            "multiplies the output of neither by residual_multiplier.",
        )
    if len(types) != hf.size("num_hidden_layers"):
        raise hf.error(field, f"must have one entry for each of the {hf.size('num_hidden_layers')} layers.")
    bias, layers = attention_biases(hf)
    width = hf.size("shared_intermediate_size")
    if not hf.count("num_local_experts"):
        hf = msgspec.structs.replace(hf, values={**hf.values, "intermediate_size": width})
        return _without_rope(hf, _granite(hf, bias, layers))
    experts = _experts(hf) | {"moe_shared_expert_intermediate_size": width}
    return _without_rope(hf, _granite(hf, bias | experts, layers))


def _without_rope(hf: HFConfig, conversion: Conversion) -> Conversion:
    if hf.get("position_embedding_type") == "rope":
        return conversion
    return msgspec.structs.replace(conversion, model=conversion.model | {"position_embedding_type": "none"})


def _experts(hf: HFConfig) -> dict[str, Any]:
    return routed_experts(hf, "num_local_experts", width="intermediate_size") | {
        **softmax_router(hf, is_normalised=True),
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": hf.number("router_aux_loss_coef"),
    }


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
    Family(
        model_types=("granitemoehybrid",),
        convert=granite_hybrid,
        names=LinearNames(
            mlp="shared_mlp", projections=FUSED_INPUT, shared_experts="shared_mlp", has_packed_experts=True
        ),
    ),
)
