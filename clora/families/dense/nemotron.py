"""Nemotron: LayerNorm with a weight around one (`LayerNorm1P`), squared ReLU, no gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import COMMON_DEFAULTS, biases, decoder
from clora.families.base.family import Family
from clora.families.base.linear_names import UNGATED, LinearNames

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig


def nemotron(hf: HFConfig) -> Conversion:
    """Convert a `NemotronForCausalLM`."""
    defaults = {
        "vocab_size": 256000,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 32,
        "num_attention_heads": 48,
        "max_position_embeddings": 4096,
        "hidden_act": "relu2",
        "norm_eps": 1e-5,
        "initializer_range": 0.0134,
        "partial_rotary_factor": 0.5,
    }
    hf = hf.with_defaults(COMMON_DEFAULTS | defaults)
    fields = {
        "normalization": "LayerNorm",
        "layernorm_zero_centered_gamma": True,
        "layernorm_epsilon": hf.number("norm_eps"),
        "gated_linear_unit": False,
    }
    bias, layers = biases(hf)
    return decoder(hf, bias | fields, layers=layers)


FAMILIES = (Family(model_types=("nemotron",), convert=nemotron, names=LinearNames(projections=UNGATED)),)
