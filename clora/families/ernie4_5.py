"""ERNIE 4.5: rotary embeddings in pairs, and one switch for the biases of all linears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.family import Family

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


FAMILIES = (Family(model_types=("ernie4_5",), convert=ernie4_5),)
