"""Qwen2, and Qwen3 with its norms on query and key heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.decoder import COMMON_DEFAULTS, attention_biases, decoder, layer_windows, sliding_window
from clora.families.base.family import Family

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

QWEN_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def qwen2(hf: HFConfig) -> Conversion:
    """Convert a `Qwen2ForCausalLM`. It always has a bias on q, k and v, and no field says so."""
    return _qwen2(hf.with_defaults(QWEN_DEFAULTS | {"num_key_value_heads": 32}))


def qwen2_vl_text(hf: HFConfig) -> Conversion:
    """Convert the text model of Qwen2-VL or Qwen2.5-VL."""
    defaults = {
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "max_window_layers": 80,
    }
    return _qwen2(hf.with_defaults(QWEN_DEFAULTS | defaults))


def qwen2_5_omni_text(hf: HFConfig) -> Conversion:
    """Convert the text model of Qwen2.5-Omni's thinker."""
    defaults = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_theta": 1_000_000.0,
        "sliding_window": 32768,
    }
    return _qwen2(hf.with_defaults(QWEN_DEFAULTS | defaults))


def _qwen2(hf: HFConfig) -> Conversion:
    return decoder(hf, {"add_qkv_bias": True} | qwen_window(hf))


def qwen3(hf: HFConfig) -> Conversion:
    """Convert a `Qwen3ForCausalLM`."""
    return _qwen3(hf.with_defaults(QWEN_DEFAULTS | {"num_key_value_heads": 32, "head_dim": 128}))


def qwen3_vl_text(hf: HFConfig) -> Conversion:
    """Convert the text model of Qwen3-VL."""
    defaults = {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 128000,
        "rope_theta": 5_000_000.0,
    }
    return _qwen3(hf.with_defaults(QWEN_DEFAULTS | defaults))


def _qwen3(hf: HFConfig) -> Conversion:
    bias, layers = attention_biases(hf)
    return decoder(hf, bias | {"qk_layernorm": True} | qwen_window(hf), layers=layers)


def qwen_window(hf: HFConfig) -> dict[str, Any]:
    """Return the fields of the sliding window: on the layers that `layer_types` names, or else on
    those from `max_window_layers` on; none unless `use_sliding_window` is on.
    """
    if not hf.flag("use_sliding_window") or hf.get("sliding_window") is None:
        return {}
    first = hf.count("max_window_layers")
    windowed = layer_windows(hf) or [layer >= first for layer in range(hf.size("num_hidden_layers"))]
    return sliding_window(hf.size("sliding_window"), windowed)


FAMILIES = (
    Family(model_types=("qwen2",), convert=qwen2),
    Family(model_types=("qwen2_vl_text", "qwen2_5_vl_text"), convert=qwen2_vl_text),
    Family(model_types=("qwen2_5_omni_text",), convert=qwen2_5_omni_text),
    Family(model_types=("qwen3",), convert=qwen3),
    Family(model_types=("qwen3_vl_text",), convert=qwen3_vl_text),
)
