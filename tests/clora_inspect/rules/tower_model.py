"""A language model with a vision tower from Hugging Face beside it, one whose MLP calls no linear,
and one that normalises the input of its queries: what functions of users return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from megatron.core.extensions.transformer_engine import TELayerNormColumnParallelLinear
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import MLATransformerConfig, TransformerConfig
from torch import nn

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout


class TowerLayer(nn.Module):
    """Attention of a Hugging Face tower: linears with Hugging Face's names."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(32, 32))


class Seeing(GPTModel):  # type: ignore[misc]
    """A decoder and a tower."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.vision_tower = nn.Sequential(TowerLayer(), TowerLayer())


def seeing(layout: Layout, *, pre_process: bool, post_process: bool) -> nn.Module:
    return _made(Seeing, layout, pre_process=pre_process, post_process=post_process)


def fused_mlp(layout: Layout, *, pre_process: bool, post_process: bool) -> nn.Module:
    return _made(GPTModel, layout, pre_process=pre_process, post_process=post_process, use_te_op_fuser=True)


def normed_queries(layout: Layout, *, pre_process: bool, post_process: bool) -> nn.Module:
    """Return what megatron-core 0.19 makes of latent attention that does not compress queries."""
    spec = get_gpt_layer_with_transformer_engine_spec(multi_latent_attention=True, qk_layernorm=True)
    spec.submodules.self_attention.submodules.linear_q_proj = TELayerNormColumnParallelLinear
    fields = {"q_lora_rank": None, "qk_layernorm": True}
    ends = {"pre_process": pre_process, "post_process": post_process}
    return _built(GPTModel, layout, MLATransformerConfig, fields, spec, **ends)


def _made(cls: type[Any], layout: Layout, *, pre_process: bool, post_process: bool, **spec: Any) -> nn.Module:
    layer = get_gpt_layer_with_transformer_engine_spec(**spec)
    return _built(cls, layout, TransformerConfig, {}, layer, pre_process=pre_process, post_process=post_process)


def _built(
    cls: type[Any], layout: Layout, config_class: type[Any], fields: dict[str, Any], layer: Any, **ends: bool
) -> nn.Module:
    config = config_class(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=128,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        normalization="RMSNorm",
        params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16,
        bf16=True,
        init_model_with_meta_device=True,
        perform_initialization=False,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        **fields,
    )
    model: nn.Module = cls(
        config,
        layer,
        vocab_size=256,
        max_sequence_length=64,
        **ends,
        position_embedding_type="rope",
    )
    return model
