"""GPT-2, and GPT-BigCode (StarCoder, SantaCoder): learned positions, LayerNorm, biases everywhere,
an MLP without a gate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.families.base.conversion import Conversion
from clora.families.base.decoder import COMMON_DEFAULTS, decoder_config, model_sizes
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames

if TYPE_CHECKING:
    from clora.families.base.hf_config import HFConfig

_USUAL_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "rms_norm_eps",
}
"""The classes' own names -> those of other families. transformers reads four of these as well, and
prefers them.
"""

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 50257,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": None,
    "max_position_embeddings": 1024,
    "hidden_act": "gelu_new",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}


def gpt2(hf: HFConfig) -> Conversion:
    """Convert a `GPT2LMHeadModel`. Every query head has its own key and value head."""
    defaults = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    hf = _with_usual_names(hf, _DEFAULTS | defaults)
    for field, usual in defaults.items():
        if hf.flag(field) is not usual:
            raise hf.error(field, "attention scores of another scale cannot be built from a config.")
    return _learned_positions(hf, hf.size("num_attention_heads"))


def gpt_bigcode(hf: HFConfig) -> Conversion:
    """Convert a `GPTBigCodeForCausalLM`, most of which have one key and value head."""
    defaults = {"hidden_act": "gelu_pytorch_tanh", "multi_query": True, "scale_attn_weights": True}
    hf = _with_usual_names(hf, _DEFAULTS | defaults)
    if not hf.flag("scale_attn_weights"):
        raise hf.error("scale_attn_weights", "attention scores of another scale cannot be built from a config.")
    return _learned_positions(hf, 1 if hf.flag("multi_query") else hf.size("num_attention_heads"))


def _with_usual_names(hf: HFConfig, defaults: dict[str, Any]) -> HFConfig:
    # These classes read none of the fields under the usual name.
    hf = hf.without("intermediate_size", "hidden_act", "rms_norm_eps", "num_key_value_heads", "head_dim")
    renamed = {usual: hf.values[own] for own, usual in _USUAL_NAMES.items() if own in hf.values}
    return msgspec.structs.replace(hf, values=renamed | hf.values).with_defaults(defaults)


def _learned_positions(hf: HFConfig, groups: int) -> Conversion:
    if hf.flag("add_cross_attention"):
        raise hf.error("add_cross_attention", "layers that attend to an encoder cannot be built.")
    width = hf.optional_size("intermediate_size") or 4 * hf.size("hidden_size")
    fields = {
        "num_query_groups": groups,
        "normalization": "LayerNorm",
        "gated_linear_unit": False,
        "add_bias_linear": True,
    }
    hf = hf.with_defaults(hf.defaults | {"num_key_value_heads": groups})
    hf = msgspec.structs.replace(hf, values={**hf.values, "intermediate_size": width})
    positions = {"position_embedding_type": "learned_absolute"}
    return Conversion(config=decoder_config(hf) | fields, model=model_sizes(hf) | positions)


_NAMES = LinearNames(
    layers="transformer.h",
    attention={"linear_proj": "attn.c_proj"},
    projections=(None, "c_fc", "c_proj"),
    reasons={"linear_qkv": "q, k and v are one linear there, c_attn, and PEFT has one adapter a linear"},
)

FAMILIES = (
    Family(model_types=("gpt2",), convert=gpt2, names=_NAMES),
    Family(model_types=("gpt_bigcode",), convert=gpt_bigcode, names=_NAMES),
)
