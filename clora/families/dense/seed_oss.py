"""Seed-OSS: biases on q, k and v, and a switch of its own for the output projection's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 155136,
    "hidden_size": 4096,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 524288,
    "attention_bias": True,
    "attention_out_bias": False,
}


def seed_oss(hf: HFConfig) -> Conversion:
    """Convert a `SeedOssForCausalLM`. Its dropout in attention and on the residual is for training
    from scratch and is not taken over.
    """
    hf = hf.with_defaults(_DEFAULTS)
    qkv, output, mlp = (hf.flag(name) for name in ("attention_bias", "attention_out_bias", "mlp_bias"))
    if not mlp:
        return decoder(hf, {"add_qkv_bias": qkv}, layers=LayerForm(has_attention_bias=output))
    if not (qkv and output):
        raise hf.error(
            "mlp_bias",
            "without attention_bias and attention_out_bias cannot be built: megatron-core has no biases in the MLP "
            "alone.",
        )
    return decoder(hf, {"add_bias_linear": True})


FAMILIES = (Family(model_types=("seed_oss",), convert=seed_oss),)
