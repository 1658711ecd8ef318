"""OLMo 2: norms behind attention and MLP instead of before them, and over all heads of q and k."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder, refuse_attention_bias
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}


def olmo2(hf: HFConfig) -> Conversion:
    """Convert an `Olmo2ForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    refuse_attention_bias(hf, "OLMo 2")
    layers = LayerForm(has_norms_before=False, has_norms_behind=True, has_whole_qk_norms=True)
    return decoder(hf, {"qk_layernorm": True}, layers=layers)


FAMILIES = (Family(model_types=("olmo2",), convert=olmo2),)
