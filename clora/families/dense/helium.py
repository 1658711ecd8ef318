"""Helium: Llama with rotary embeddings in pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, decoder
from clora.families.base.family import Family

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 48000,
    "hidden_size": 2560,
    "intermediate_size": 7040,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-8,
    "rope_theta": 100_000.0,
}


def helium(hf: HFConfig) -> Conversion:
    """Convert a `HeliumForCausalLM`. The output projection never has a bias."""
    hf = hf.with_defaults(_DEFAULTS)
    if hf.flag("mlp_bias"):
        raise hf.error("mlp_bias", "cannot be built: megatron-core has no biases in the MLP alone.")
    conversion = decoder(hf, {"add_qkv_bias": hf.flag("attention_bias"), "rotary_interleaved": True})
    width = conversion.config["kv_channels"] * conversion.config["num_attention_heads"]
    if width != hf.size("hidden_size"):
        raise hf.error(
            "head_dim", f"the heads together are {width} wide, and Helium's output projection reads hidden_size."
        )
    return conversion


FAMILIES = (Family(model_types=("helium",), convert=helium),)
