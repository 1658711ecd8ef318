"""ERNIE 4.5: rotary embeddings in pairs, and one switch for the biases of all linears."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.linear_names import LinearNames
from clora.families.sparse.deepseek import prediction_layers_note

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

ERNIE_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "use_bias": False,
    "tie_word_embeddings": True,
}


def ernie4_5(hf: HFConfig) -> Conversion:
    """Convert an `Ernie4_5ForCausalLM`."""
    hf = hf.with_defaults(ERNIE_DEFAULTS)
    return decoder(hf, {"add_bias_linear": hf.flag("use_bias"), "rotary_interleaved": True})


def ernie4_5_moe(hf: HFConfig) -> Conversion:
    """Convert an `Ernie4_5_MoeForCausalLM`: experts from one layer on, shared experts, and a bias
    on the softmax scores by which experts are chosen.
    """
    defaults = {
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "head_dim": None,
        "moe_intermediate_size": 1536,
        "moe_k": 6,
        "moe_num_experts": 64,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
        "num_nextn_predict_layers": 0,
    }
    hf = hf.with_defaults(ERNIE_DEFAULTS | defaults).with_alias("num_experts", "moe_num_experts")
    if hf.flag("use_bias"):
        raise hf.error("use_bias", "the output layer would have a bias too, which megatron-core's has not.")
    shared = hf.count("moe_num_shared_experts")
    fields = {
        "rotary_interleaved": True,
        "moe_layer_freq": _sparse_layers(hf),
        "moe_shared_expert_intermediate_size": shared * hf.size("moe_intermediate_size") if shared else None,
        **softmax_router(hf, is_normalised=True, chosen="moe_k"),
        # The bias balances the experts.
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
    }
    routed = routed_experts(hf, "moe_num_experts", width="moe_intermediate_size", chosen="moe_k")
    conversion = decoder(hf, routed | fields, layers=LayerForm(has_router_bias=True))
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, *prediction_layers_note(hf)))


def _sparse_layers(hf: HFConfig) -> int | list[int]:
    layers, every = hf.size("num_hidden_layers"), hf.size("moe_layer_interval")
    first = hf.count("moe_layer_start_index")
    # -1 stands for the last layer.
    last = layers - 1 if hf.get("moe_layer_end_index") == -1 else hf.count("moe_layer_end_index")
    sparse = [int(first <= layer <= last and (layer + 1) % every == 0) for layer in range(layers)]
    if not any(sparse):
        raise hf.error("moe_layer_start_index", "leaves no layer with experts; the dense model_type is ernie4_5.")
    return 1 if all(sparse) else sparse


FAMILIES = (
    Family(model_types=("ernie4_5",), convert=ernie4_5),
    Family(
        model_types=("ernie4_5_moe",),
        convert=ernie4_5_moe,
        names=LinearNames(experts="mlp.experts", shared_experts="mlp.shared_experts"),
    ),
)
