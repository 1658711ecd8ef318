"""Gemma 2: norms behind attention and MLP, soft-capped logits, a window in every second layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.families.base.decoder import (
    ACTIVATIONS,
    COMMON_DEFAULTS,
    decoder,
    layer_windows,
    refuse_attention_bias,
    sliding_window,
)
from clora.families.base.family import Family
from clora.families.base.layer_form import LayerForm
from clora.families.base.model_kind import ModelKind

if TYPE_CHECKING:
    from clora.families.base.conversion import Conversion
    from clora.families.base.hf_config import HFConfig

_DEFAULTS = {
    **COMMON_DEFAULTS,
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}


def gemma2(hf: HFConfig) -> Conversion:
    """Convert a `Gemma2ForCausalLM`."""
    hf = hf.with_defaults(_DEFAULTS)
    refuse_attention_bias(hf, "Gemma 2")
    # Without `layer_types` transformers gives layers 0, 2, 4, ... a window.
    windowed = layer_windows(hf) or [layer % 2 == 0 for layer in range(hf.size("num_hidden_layers"))]
    fields = {
        "activation_func": hf.word("hidden_activation", ACTIVATIONS),
        # The norms store their weight's difference from one.
        "layernorm_zero_centered_gamma": True,
        "softmax_scale": hf.positive_number("query_pre_attn_scalar") ** -0.5,
    }
    fields |= sliding_window(hf.optional_size("sliding_window"), windowed)
    return decoder(hf, fields, layers=LayerForm(has_norms_behind=True), factors=gemma_factors(hf))


def gemma_factors(hf: HFConfig) -> dict[str, float | None]:
    """Return the scale of the embeddings, and the caps of attention scores and logits."""
    caps = {name: hf.optional_number(name) for name in ("attn_logit_softcapping", "final_logit_softcapping")}
    return {"embedding_multiplier": hf.size("hidden_size") ** 0.5, **caps}


FAMILIES = (Family(model_types=("gemma2",), convert=gemma2, builds=ModelKind.GEMMA2),)
