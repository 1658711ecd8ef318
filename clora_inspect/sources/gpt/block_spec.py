"""The spec of a decoder block: megatron-core's own, changed where a family's layers differ."""

from __future__ import annotations

from typing import Any

from megatron.core.extensions.transformer_engine import TEColumnParallelLinear

from clora.families.base.layer_form import LayerForm
from clora_inspect.sources.gpt.capped_attention import SoftCappedAttention
from clora_inspect.sources.gpt.linears import BiasedTERowParallelLinear, TELayerNormColumnParallelLinear
from clora_inspect.sources.gpt.norms import TERowParallelLinearLayerNorm, WholeKeyNorm, WholeQueryNorm
from clora_inspect.sources.gpt.router import BiasedSoftmaxRouter
from clora_inspect.sources.gpt.scaled_model import factor_of, scaled_bias_dropout_add
from clora_inspect.sources.gpt.sparse_attention import SPARSE, sparse_attention
from clora_inspect.virtual.releases import submodules_of


def change_layers(block: Any, form: LayerForm, config: Any) -> None:
    """Give the layers of megatron-core's block spec the form and the factors of a family."""
    residual = factor_of(config, "residual_multiplier")
    core = _core_attention(config)
    if form == LayerForm() and residual is None and core is None:
        return
    # Layers share spec objects, so each is changed once however many layers there are.
    for spec in {id(spec): spec for spec in block.layer_specs}.values():
        layer = submodules_of(spec, "a decoder layer")
        attention = submodules_of(layer.self_attention, "the attention of a decoder layer")
        mlp = submodules_of(layer.mlp, "the MLP of a decoder layer")
        if form.has_norms_behind:
            attention.linear_proj = mlp.linear_fc2 = TERowParallelLinearLayerNorm
        if not form.has_norms_before:
            # Elsewhere the norm is inside these linears.
            attention.linear_qkv = mlp.linear_fc1 = TEColumnParallelLinear
        _change_attention(attention, form, core)
        if form.has_router_bias and "router" in vars(mlp):
            mlp.router = BiasedSoftmaxRouter
        if residual is not None:
            layer.self_attn_bda = layer.mlp_bda = scaled_bias_dropout_add(residual)


def _change_attention(attention: Any, form: LayerForm, core: Any) -> None:
    if core is not None:
        attention.core_attention = core
    if form.has_whole_qk_norms:
        attention.q_layernorm, attention.k_layernorm = WholeQueryNorm, WholeKeyNorm
    if form.has_latent_norm_alone:
        attention.linear_kv_up_proj = TELayerNormColumnParallelLinear
    if form.has_attention_bias:
        attention.linear_proj = BiasedTERowParallelLinear


def _core_attention(config: Any) -> Any:
    """Return the spec of attention that differs from megatron-core's; None where it does not."""
    if config.experimental_attention_variant == SPARSE:
        return sparse_attention(config)
    return None if factor_of(config, "attn_logit_softcapping") is None else SoftCappedAttention
