"""A provider: an object that has the layout as fields, and makes the model by its method `provide`.
Those of Megatron-Bridge are called in this way.

    clora-inspect plan provider.py:build --tp 2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig


@dataclass
class TinyProvider(TransformerConfig):
    vocab_size: int = 256

    def finalize(self):
        # Called when the fields of the layout are set, so that the config checks them all.
        super().__post_init__()

    def provide(self, pre_process=True, post_process=True, vp_stage=None):
        return GPTModel(
            self,
            get_gpt_layer_with_transformer_engine_spec(),
            vocab_size=self.vocab_size,
            max_sequence_length=128,
            position_embedding_type="rope",
            pre_process=pre_process,
            post_process=post_process,
            vp_stage=vp_stage,
        )


def build():
    return TinyProvider(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        ffn_hidden_size=128,
        add_bias_linear=False,
        bf16=True,
        params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16,
    )
