"""A language model with a vision tower from Hugging Face beside it, and one whose MLP calls no
linear: what functions of users return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig
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


def _made(cls: type[Any], layout: Layout, *, pre_process: bool, post_process: bool, **spec: Any) -> nn.Module:
    config = TransformerConfig(
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
    )
    model: nn.Module = cls(
        config,
        get_gpt_layer_with_transformer_engine_spec(**spec),
        vocab_size=256,
        max_sequence_length=64,
        pre_process=pre_process,
        post_process=post_process,
        position_embedding_type="rope",
    )
    return model
