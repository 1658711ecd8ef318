"""Hunyuan, whose dense models have norms on query and key heads behind the rotary embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.families.base.decoder import COMMON_DEFAULTS, attention_biases, decoder
from clora.families.base.family import Family

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

HUNYUAN_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 290943,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}

NORMS_BEHIND_ROPE = (
    "Hugging Face normalises query and key heads behind the rotary embedding, and megatron-core before it. No "
    "parameter depends on it."
)


def hunyuan_v1_dense(hf: HFConfig) -> Conversion:
    """Convert a `HunYuanDenseV1ForCausalLM`."""
    hf = hf.with_defaults(HUNYUAN_DEFAULTS)
    bias, layers = attention_biases(hf)
    conversion = decoder(hf, bias | {"qk_layernorm": True}, layers=layers)
    return msgspec.structs.replace(conversion, notes=(*conversion.notes, NORMS_BEHIND_ROPE))


FAMILIES = (Family(model_types=("hunyuan_v1_dense",), convert=hunyuan_v1_dense),)
