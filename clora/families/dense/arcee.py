"""AFM of Arcee: Llama with squared ReLU and an MLP without a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, biases, decoder
from clora.families.base.family import Family
from clora.families.base.linear_names import UNGATED, LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 32000,
    "hidden_size": 2560,
    "intermediate_size": 18432,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "relu2",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def arcee(hf: HFConfig) -> Conversion:
    """Convert an `ArceeForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    fields, layers = biases(hf)
    return decoder(hf, fields | {"gated_linear_unit": False}, layers=layers)


FAMILIES = (Family(model_types=("arcee",), convert=arcee, names=LinearNames(projections=UNGATED)),)
