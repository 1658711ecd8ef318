"""megatron-core's `LLaVAModel`: a vision tower, a projection, and a language model.

    clora-inspect plan llava.py:build --target-modules 'language_model.*.linear_q'

In a pipeline LLaVAModel fills each row up to `language_max_sequence_length`, and `verify` proves it
with rows that are full.
"""

from __future__ import annotations

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec, get_mlp_module_spec
from megatron.core.models.multimodal.llava_model import LLaVAModel
from megatron.core.models.vision.vit_layer_specs import get_vit_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig


class TextLLaVA(LLaVAModel):
    """The model as `verify` calls it: with tokens, positions, a mask and labels, and no picture."""

    def forward(self, tokens, positions=None, mask=None, labels=None):
        pictures = torch.empty(0, 3, 28, 28, dtype=torch.bfloat16, device=tokens.device)
        return super().forward(pictures, tokens, positions, mask, labels)[0]


def build(layout, pre_process=True, post_process=True, vp_stage=None):
    def config(**sizes):
        return TransformerConfig(
            bf16=True,
            params_dtype=torch.bfloat16,
            pipeline_dtype=torch.bfloat16,
            tensor_model_parallel_size=layout.tp,
            **sizes,
        )

    # Only the language model is split over the pipeline. The tower is on the first stage.
    language = config(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        ffn_hidden_size=128,
        add_bias_linear=False,
        normalization="RMSNorm",
        pipeline_model_parallel_size=layout.pp,
    )
    vision = config(num_layers=1, hidden_size=32, num_attention_heads=2, ffn_hidden_size=64)
    vision.vision_model_type = "clip"
    projection = config(num_layers=1, hidden_size=64, num_attention_heads=1, ffn_hidden_size=64)
    return TextLLaVA(
        language_transformer_config=language,
        language_transformer_layer_spec=get_gpt_layer_with_transformer_engine_spec(),
        language_vocab_size=256,
        language_max_sequence_length=128,
        language_position_embedding_type="rope",
        vision_transformer_config=vision,
        vision_transformer_layer_spec=get_vit_layer_with_transformer_engine_spec(),
        drop_vision_class_token=False,
        img_h=28,
        img_w=28,
        patch_dim=14,
        vision_projection_config=projection,
        vision_projection_layer_spec=get_mlp_module_spec(use_te=True).submodules,
        vision_projection_type="mlp",
        pre_process=pre_process,
        post_process=post_process,
        add_encoder=pre_process,
        vp_stage=vp_stage,
    )
