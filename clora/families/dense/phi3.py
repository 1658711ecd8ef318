"""Phi-3 and Phi-4, whose files have q, k and v in one linear, and gate and up in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder, sliding_window
from clora.families.base.family import Family
from clora.families.base.linear_names import FUSED_GATE_AND_UP, LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def phi3(hf: HFConfig) -> Conversion:
    """Convert a `Phi3ForCausalLM`. A window applies to every layer."""
    hf = hf.with_defaults(_DEFAULTS)
    return decoder(hf, sliding_window(hf.optional_size("sliding_window"), [True]))


FAMILIES = (
    Family(
        model_types=("phi3",),
        convert=phi3,
        names=LinearNames(
            attention={"linear_proj": "self_attn.o_proj"},
            projections=FUSED_GATE_AND_UP,
            reasons={"linear_qkv": "q, k and v are one linear there, qkv_proj, and PEFT has one adapter a linear"},
        ),
    ),
)
