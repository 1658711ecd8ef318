"""OLMoE: experts in every layer, and norms over all heads of q and k together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, attention_biases, decoder
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.linear_names import LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "clip_qkv": None,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "router_aux_loss_coef": 0.01,
}


def olmoe(hf: HFConfig) -> Conversion:
    """Convert an `OlmoeForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    if hf.optional_size("head_dim") not in {None, hf.size("hidden_size") // hf.size("num_attention_heads")}:
        raise hf.error("head_dim", "OLMoE's heads are hidden_size / num_attention_heads wide.")
    bias, form = attention_biases(hf)
    layers = LayerForm(has_whole_qk_norms=True, has_attention_bias=form.has_attention_bias)
    fields = {
        "qk_layernorm": True,
        **softmax_router(hf, is_normalised=hf.flag("norm_topk_prob")),
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": hf.number("router_aux_loss_coef"),
    }
    conversion = decoder(
        hf, bias | fields | routed_experts(hf, "num_experts", width="intermediate_size"), layers=layers
    )
    clip = hf.optional_number("clip_qkv")
    if clip is None:
        return conversion
    note = f"Hugging Face clips q, k and v at {clip:g}, and megatron-core does not. No parameter depends on it."
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, note))


FAMILIES = (Family(model_types=("olmoe",), convert=olmoe, names=LinearNames(experts="mlp.experts")),)
