"""dots.llm1: DeepSeek's experts behind ordinary attention with norms on query and key heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.decoder import COMMON_DEFAULTS, attention_biases, decoder, layer_windows, sliding_window
from clora.families.base.family import Family
from clora.families.base.linear_names import LinearNames
from clora.families.sparse.deepseek import DEEPSEEK_ROUTING, deepseek_experts

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    **DEEPSEEK_ROUTING,
    "vocab_size": 152064,
    "hidden_size": 4608,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "n_shared_experts": 0,
    "first_k_dense_replace": 0,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "sliding_window": 4096,
    "max_window_layers": 62,
}


def dots1(hf: HFConfig) -> Conversion:
    """Convert a `Dots1ForCausalLM`."""
    # The class does not read the field, in which released files name the method of the choice.
    hf = hf.without("scoring_func").with_defaults(_DEFAULTS)
    bias, layers = attention_biases(hf)
    experts = deepseek_experts(hf, hf.size("num_hidden_layers"))
    return decoder(hf, bias | {"qk_layernorm": True} | experts | _windows(hf), layers=layers)


def _windows(hf: HFConfig) -> dict[str, Any]:
    window = hf.optional_size("sliding_window")
    first = hf.count("max_window_layers")
    return sliding_window(
        window, layer_windows(hf) or [layer >= first for layer in range(hf.size("num_hidden_layers"))]
    )


FAMILIES = (
    Family(
        model_types=("dots1",),
        convert=dots1,
        names=LinearNames(experts="mlp.experts", shared_experts="mlp.shared_experts"),
    ),
)
