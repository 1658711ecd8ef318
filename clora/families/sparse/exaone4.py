"""EXAONE 4, with norms behind attention and MLP instead of before them, and K-EXAONE, a mixture of
experts. Both have norms on query and key heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, decoder, layer_windows, sliding_window
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.linear_names import LinearNames
from clora.families.base.rope import without_rope
from clora.families.sparse.deepseek import DEEPSEEK_ROUTING, deepseek_experts, prediction_layers_note

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}


def exaone4(hf: HFConfig) -> Conversion:
    """Convert an `Exaone4ForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    layers = LayerForm(has_norms_before=False, has_norms_behind=True)
    return decoder(hf, {"qk_layernorm": True} | _windows(hf), layers=layers)


def exaone_moe(hf: HFConfig) -> Conversion:
    """Convert an `ExaoneMoeForCausalLM` (K-EXAONE): norms before the blocks, and DeepSeek's
    experts.
    """
    defaults = {
        "moe_intermediate_size": 1024,
        "n_routed_experts": hf.values.get("num_experts", 64),
        "n_shared_experts": hf.values.get("num_shared_experts", 1),
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 1,
        "mlp_layer_types": None,
        "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 0,
    }
    # The class has names of its own for the numbers of experts.
    hf = hf.without("n_routed_experts", "n_shared_experts").with_defaults(_DEFAULTS | DEEPSEEK_ROUTING | defaults)
    experts = deepseek_experts(hf, hf.size("num_hidden_layers"))
    conversion = decoder(hf, {"qk_layernorm": True} | _windows(hf) | experts)
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, *prediction_layers_note(hf)))


def _windows(hf: HFConfig) -> dict[str, Any]:
    """Return the fields of the windows. Layers without one have no rotary embeddings either, unless
    the model has no windows at all.
    """
    window = hf.optional_size("sliding_window")
    if window is None:
        return {}
    every = hf.size("sliding_window_pattern") if hf.get("layer_types") is None else 0
    windowed = layer_windows(hf) or [bool((layer + 1) % every) for layer in range(hf.size("num_hidden_layers"))]
    return sliding_window(window, windowed) | without_rope(windowed)


FAMILIES = (
    Family(model_types=("exaone4",), convert=exaone4),
    Family(
        model_types=("exaone_moe",),
        convert=exaone_moe,
        names=LinearNames(experts="mlp.experts", shared_experts="mlp.shared_experts"),
    ),
)
