"""gpt-oss: biases everywhere, a learned sink in every attention head, clamped gated quick-GELU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder, layer_windows, sliding_window
from clora.families.base.experts import routed_experts, softmax_router
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "attention_bias": True,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "swiglu_limit": 7.0,
}


def gpt_oss(hf: HFConfig) -> Conversion:
    """Convert a `GptOssForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    if not hf.flag("attention_bias"):
        raise hf.error(
            "attention_bias",
            "gpt-oss without attention biases cannot be built: megatron-core would drop the experts' too.",
        )
    # Without `layer_types` transformers gives layers 0, 2, 4, ... a window.
    windowed = layer_windows(hf) or [layer % 2 == 0 for layer in range(hf.size("num_hidden_layers"))]
    fields = {
        "add_bias_linear": True,
        "activation_func": "quick_gelu",
        "activation_func_clamp_value": hf.number("swiglu_limit"),
        # The activation multiplies by up + 1.
        "glu_linear_offset": 1.0,
        "softmax_type": "learnable",
        "moe_router_load_balancing_type": "none",
    }
    experts = routed_experts(hf, "num_local_experts", width="intermediate_size")
    experts |= softmax_router(hf, is_normalised=True)
    return decoder(hf, experts | fields | sliding_window(hf.optional_size("sliding_window"), windowed))


FAMILIES = (Family(model_types=("gpt_oss",), convert=gpt_oss, names=LinearNames(has_packed_experts=True)),)
