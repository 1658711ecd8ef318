"""GLM-4.5 and GLM-4.6: DeepSeek's experts behind ordinary attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames
from clora.families.sparse.deepseek import deepseek_experts, prediction_layers_note

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "use_qk_norm": False,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 1.0,
    "moe_intermediate_size": 1408,
    # The bias on the scores balances the experts.
    "aux_loss_alpha": 0.0,
    "seq_aux": True,
    "num_nextn_predict_layers": 0,
}


def glm4_moe(hf: HFConfig) -> Conversion:
    """Convert a `Glm4MoeForCausalLM`. The output projection never has a bias."""
    return _glm4_moe(hf.with_defaults(_DEFAULTS))


def glm4v_moe_text(hf: HFConfig) -> Conversion:
    """Convert the text model of GLM-4.5V, which has no norms on queries and keys."""
    defaults = {"vocab_size": 151424, "max_position_embeddings": 65536, "attention_bias": True}
    return _glm4_moe(hf.without("use_qk_norm").with_defaults(_DEFAULTS | defaults))


def _glm4_moe(hf: HFConfig) -> Conversion:
    fields = {"add_qkv_bias": hf.flag("attention_bias"), "qk_layernorm": hf.flag("use_qk_norm")}
    conversion = decoder(hf, fields | deepseek_experts(hf, hf.size("num_hidden_layers")))
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, *prediction_layers_note(hf)))


_NAMES = LinearNames(experts="mlp.experts", shared_experts="mlp.shared_experts")

FAMILIES = (
    Family(model_types=("glm4_moe",), convert=glm4_moe, names=_NAMES),
    # transformers 4 and 5 spell it differently.
    Family(model_types=("Glm4vMoe_text", "glm4v_moe_text"), convert=glm4v_moe_text, names=_NAMES),
)
