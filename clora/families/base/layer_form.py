"""`LayerForm`: in what the layers of a model differ from those that megatron-core builds."""

from __future__ import annotations

import msgspec


class LayerForm(msgspec.Struct, frozen=True, kw_only=True):
    """Norms and biases of a decoder layer that no field of megatron-core's config describes. The
    defaults are what megatron-core builds.
    """

    has_norms_before: bool = True
    """True if attention and MLP read the normalised residual."""
    has_norms_behind: bool = False
    """True if the outputs of attention and MLP are normalised before they join the residual."""
    has_whole_qk_norms: bool = False
    """True if one norm covers all query heads, and one all key heads. megatron-core's
    `qk_layernorm` normalises every head by itself, with one weight for all heads.
    """
    has_router_bias: bool = False
    """True if a bias on softmax scores takes part in the choice of experts, and not in their
    weights. megatron-core has one for sigmoid scores only.
    """
    has_attention_bias: bool = False
    """True if attention's output projection has a bias although `add_bias_linear` is off."""
    has_latent_norm_alone: bool = False
    """True if latent attention normalises the latent of keys and values and no query, which is not
    compressed. From 0.19 on, megatron-core's `qk_layernorm` normalises the query's input as well.
    """
