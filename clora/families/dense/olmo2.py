"""OLMo 2 and 3: norms behind attention and MLP instead of before them, and over all heads of q and
k.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, decoder, layer_windows, refuse_attention_bias, sliding_window
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.rope import rope_scaling

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
    return _olmo(hf.with_defaults(_DEFAULTS), {})


def olmo3(hf: HFConfig) -> Conversion:
    """Convert an `Olmo3ForCausalLM`: windows on three of four layers."""
    hf = hf.with_defaults(_DEFAULTS | {"sliding_window": 4096})
    count = hf.size("num_hidden_layers")
    windowed = layer_windows(hf) or [bool((layer + 1) % 4) for layer in range(count)]
    conversion = _olmo(hf, sliding_window(hf.optional_size("sliding_window"), windowed))
    kind, scaling = rope_scaling(hf)
    if scaling is None or not any(windowed):
        return conversion
    note = (
        f"Hugging Face scales the rotary embedding ({kind}) on layers without a window only, and megatron-core has one "
        "embedding for all layers. No parameter depends on it."
    )
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, note))


def _olmo(hf: HFConfig, fields: dict[str, Any]) -> Conversion:
    refuse_attention_bias(hf, "OLMo")
    layers = LayerForm(has_norms_before=False, has_norms_behind=True, has_whole_qk_norms=True)
    return decoder(hf, {"qk_layernorm": True} | fields, layers=layers)


FAMILIES = (
    Family(model_types=("olmo2",), convert=olmo2),
    Family(model_types=("olmo3",), convert=olmo3),
)
