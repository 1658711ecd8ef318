"""StarCoder2: LayerNorm, biases on all linears, an MLP without a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder, sliding_window
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 49152,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 4096,
    "initializer_range": 0.018042,
    "norm_epsilon": 1e-5,
    "use_bias": True,
    "tie_word_embeddings": True,
}


def starcoder2(hf: HFConfig) -> Conversion:
    """Convert a `Starcoder2ForCausalLM`. A window applies to every layer."""
    hf = hf.with_defaults(_DEFAULTS)
    fields = {
        "normalization": "LayerNorm",
        "layernorm_epsilon": hf.number("norm_epsilon"),
        "gated_linear_unit": False,
        "add_bias_linear": hf.flag("use_bias"),
    }
    return decoder(hf, fields | sliding_window(hf.optional_size("sliding_window"), [True]))


FAMILIES = (
    Family(
        model_types=("starcoder2",),
        convert=starcoder2,
        names=LinearNames(projections=(None, "c_fc", "c_proj")),
    ),
)
