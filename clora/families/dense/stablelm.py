"""StableLM: LayerNorm, a gated MLP without biases, and rotary embeddings over a part of a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.family import Family

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 50304,
    "intermediate_size": 6912,
    "hidden_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "use_qkv_bias": False,
    "qk_layernorm": False,
    "use_parallel_residual": False,
    "partial_rotary_factor": 0.25,
}


def stablelm(hf: HFConfig) -> Conversion:
    """Convert a `StableLmForCausalLM`."""
    # Its class does not read `head_dim`.
    hf = hf.without("head_dim").with_defaults(_DEFAULTS)
    if hf.flag("use_parallel_residual"):
        raise hf.error(
            "use_parallel_residual",
            "attention and MLP side by side cannot be built: no layer of megatron-core does it.",
        )
    if hf.flag("qk_layernorm"):
        raise hf.error(
            "qk_layernorm", "a norm of its own for every head cannot be built: megatron-core's heads share one."
        )
    fields = {
        "normalization": "LayerNorm",
        "layernorm_epsilon": hf.number("layer_norm_eps"),
        "add_qkv_bias": hf.flag("use_qkv_bias"),
    }
    return decoder(hf, fields)


FAMILIES = (Family(model_types=("stablelm",), convert=stablelm),)
