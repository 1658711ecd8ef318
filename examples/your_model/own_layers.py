"""Layers of your own, made of megatron-core's parallel linears, in a torch module.

    clora-inspect plan own_layers.py:build --target-modules up,down

A layer has `layer_number`, its number in the whole model, counted from 1: by it a plan knows the
layer on every stage.
"""

from __future__ import annotations

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from megatron.core.transformer import TransformerConfig
from torch import nn

LAYERS = 2


class Layer(nn.Module):
    def __init__(self, config, layer_number):
        super().__init__()
        self.layer_number = layer_number
        width, options = config.hidden_size, {"config": config, "init_method": config.init_method, "bias": False}
        self.norm = nn.RMSNorm(width, dtype=config.params_dtype)
        self.up = ColumnParallelLinear(width, 4 * width, gather_output=False, **options)
        self.down = RowParallelLinear(4 * width, width, input_is_parallel=True, skip_bias_add=True, **options)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))[0]))[0]


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = VocabParallelEmbedding(256, config.hidden_size, init_method=config.init_method, config=config)
        self.layers = nn.ModuleList(Layer(config, number) for number in range(1, LAYERS + 1))
        self.head = ColumnParallelLinear(
            config.hidden_size, 256, config=config, init_method=config.init_method, bias=False, gather_output=True
        )

    def forward(self, tokens, positions=None, mask=None, labels=None):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)[0]


def build(layout):
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        raise ValueError("this model has no pipeline: leave out --pp")
    return Model(
        TransformerConfig(
            num_layers=LAYERS,
            hidden_size=64,
            num_attention_heads=4,
            params_dtype=torch.bfloat16,
            bf16=True,
            tensor_model_parallel_size=layout.tp,
        )
    )
