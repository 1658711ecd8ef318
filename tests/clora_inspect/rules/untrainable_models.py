"""Models of a user's function whose config was changed after megatron-core had checked it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig

if TYPE_CHECKING:
    from torch import nn


def plain(*, deferred: bool = False) -> nn.Module:
    config = TransformerConfig(
        num_layers=1, hidden_size=32, num_attention_heads=4, add_bias_linear=False, params_dtype=torch.float32
    )
    # The constructor asks for a pipeline and for kernels of Apex.
    config.defer_embedding_wgrad_compute = deferred
    spec = get_gpt_layer_with_transformer_engine_spec()
    model: nn.Module = GPTModel(config, spec, vocab_size=64, max_sequence_length=64, position_embedding_type="rope")
    return model


def deferred() -> nn.Module:
    return plain(deferred=True)
