"""MiMo: Qwen2 with multi-token-prediction layers, which its published class builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import decoder
from clora.families.base.family import Family
from clora.families.base.prediction import with_prediction_layers
from clora.families.dense.qwen import QWEN_DEFAULTS, qwen_window

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {**QWEN_DEFAULTS, "num_key_value_heads": 32, "num_nextn_predict_layers": 0}


def mimo(hf: HFConfig) -> Conversion:
    """Convert a `MiMoForCausalLM`. It is in no release of transformers: its code comes with the
    weights. Like Qwen2 it always has a bias on q, k and v.
    """
    hf = hf.with_defaults(_DEFAULTS)
    return with_prediction_layers(hf, decoder(hf, {"add_qkv_bias": True} | qwen_window(hf)))


FAMILIES = (Family(model_types=("mimo",), convert=mimo),)
