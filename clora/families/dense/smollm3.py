"""SmolLM3: Llama without rotary embeddings in every fourth layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.decoder import COMMON_DEFAULTS, biases, decoder, layer_windows, sliding_window
from clora.families.base.family import Family
from clora.families.base.rope import layers_with_rope, without_rope

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 2_000_000.0,
    "use_sliding_window": False,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}


def smollm3(hf: HFConfig) -> Conversion:
    """Convert a `SmolLM3ForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    fields, layers = biases(hf)
    has_rope = layers_with_rope(hf, written=hf.get("no_rope_layers") is not None)
    return decoder(hf, fields | without_rope(has_rope) | _window(hf, has_rope), layers=layers)


def _window(hf: HFConfig, has_rope: list[bool]) -> dict[str, Any]:
    """Return the fields of the window: on the layers of `layer_types`, or else on those without
    rotary embeddings; none unless `use_sliding_window` is on.
    """
    if not hf.flag("use_sliding_window") or hf.get("sliding_window") is None:
        return {}
    return sliding_window(hf.size("sliding_window"), layer_windows(hf) or [not rope for rope in has_rope])


FAMILIES = (Family(model_types=("smollm3",), convert=smollm3),)
