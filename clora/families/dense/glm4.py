"""GLM-4: rotary embeddings in pairs over half a head; GLM-4-0414 adds norms behind the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.linear_names import FUSED_GATE_AND_UP, LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "partial_rotary_factor": 0.5,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "attention_bias": True,
}


def glm(hf: HFConfig) -> Conversion:
    """Convert a `GlmForCausalLM`. The output projection never has a bias."""
    return _convert(hf, LayerForm())


def glm4(hf: HFConfig) -> Conversion:
    """Convert a `Glm4ForCausalLM`."""
    return _convert(hf, LayerForm(has_norms_behind=True))


def glm4v_text(hf: HFConfig) -> Conversion:
    """Convert the text model of GLM-4.1V: biases on q, k and v whatever its config says."""
    defaults = {"attention_bias": True, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "head_dim": None}
    # Its class reads neither.
    return _convert(hf.without("attention_bias", "head_dim"), LayerForm(has_norms_behind=True), defaults)


def _convert(hf: HFConfig, layers: LayerForm, defaults: dict[str, Any] | None = None) -> Conversion:
    hf = hf.with_defaults(_DEFAULTS | (defaults or {}))
    return decoder(hf, {"add_qkv_bias": hf.flag("attention_bias"), "rotary_interleaved": True}, layers=layers)


_NAMES = LinearNames(projections=FUSED_GATE_AND_UP)

FAMILIES = (
    Family(model_types=("glm",), convert=glm, names=_NAMES),
    Family(model_types=("glm4",), convert=glm4, names=_NAMES),
    Family(model_types=("glm4v_text",), convert=glm4v_text, names=_NAMES),
)
