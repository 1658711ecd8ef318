"""Small models of several modalities, as users' functions make them: megatron-core's LLaVAModel,
one like Qwen-VL, and a head around a GPTModel.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.enums import ModelType
from megatron.core.models.bert.bert_layer_specs import bert_layer_with_transformer_engine_spec
from megatron.core.models.bert.bert_model import BertModel
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_with_transformer_engine_spec,
    get_gpt_mtp_block_spec,
    get_mlp_module_spec,
)
from megatron.core.models.multimodal.llava_model import LLaVAModel
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.models.vision.vit_layer_specs import get_vit_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import nn

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout

LAYERS = 4
VISION_LAYERS = 2
WORDS = 128


def _config(layout: Layout, *, layers: int, hidden: int, **fields: Any) -> TransformerConfig:
    return TransformerConfig(
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=4,
        ffn_hidden_size=2 * hidden,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
        tensor_model_parallel_size=layout.tp,
        **fields,
    )


def _language_config(layout: Layout) -> TransformerConfig:
    return _config(
        layout,
        layers=LAYERS,
        hidden=64,
        num_query_groups=2,
        gated_linear_unit=True,
        activation_func=nn.functional.silu,
        add_bias_linear=False,
        normalization="RMSNorm",
        pipeline_model_parallel_size=layout.pp,
    )


def _language_model(layout: Layout, *, pre_process: bool = True, post_process: bool = True) -> GPTModel:
    return GPTModel(
        config=_language_config(layout),
        transformer_layer_spec=get_gpt_layer_with_transformer_engine_spec(),
        vocab_size=WORDS,
        max_sequence_length=64,
        position_embedding_type="rope",
        pre_process=pre_process,
        post_process=post_process,
    )


def _vision_config(layout: Layout) -> TransformerConfig:
    """The tower is whole on the first stage, so its config has no pipeline."""
    return _config(layout, layers=VISION_LAYERS, hidden=32)


def _projector_spec() -> Any:
    spec: Any = get_mlp_module_spec(use_te=True)
    return spec.submodules


class Pictured(LLaVAModel):  # type: ignore[misc]
    """A LLaVAModel that is called as a language model is, with a picture in front of each row."""

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, labels: Any = None
    ) -> Any:
        with_picture = tokens.clone()
        with_picture[:, 0] = self.image_token_index
        pictures = torch.linspace(-1, 1, 3 * 28 * 28, device=tokens.device).view(1, 3, 28, 28)
        logits, _ = super().forward(pictures.expand(len(tokens), -1, -1, -1), with_picture, positions, mask, labels)
        return logits


def llava(layout: Layout, *, pre_process: bool = True, post_process: bool = True) -> nn.Module:
    vision = _vision_config(layout)
    vision.vision_model_type = "clip"
    return Pictured(
        language_transformer_config=_language_config(layout),
        language_transformer_layer_spec=get_gpt_layer_with_transformer_engine_spec(),
        language_vocab_size=WORDS,
        language_max_sequence_length=64,
        vision_transformer_config=vision,
        vision_transformer_layer_spec=get_vit_layer_with_transformer_engine_spec(),
        drop_vision_class_token=False,
        vision_projection_config=_config(layout, layers=1, hidden=64),
        vision_projection_layer_spec=_projector_spec(),
        img_h=28,
        img_w=28,
        patch_dim=14,
        language_position_embedding_type="rope",
        pre_process=pre_process,
        post_process=post_process,
        add_encoder=pre_process,
    )


class Visual(MegatronModule):  # type: ignore[misc]
    """A vision tower of the user's own class, of megatron-core's layers."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.patch_embed = nn.Linear(12, config.hidden_size)
        self.blocks = TransformerBlock(config, get_vit_layer_with_transformer_engine_spec(), post_layer_norm=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.blocks(self.patch_embed(patches)[:, None], attention_mask=None)
        return hidden


class Seeing(MegatronModule):  # type: ignore[misc]
    """A model like Qwen-VL: `visual` and `merger` on the first stage, before the language model."""

    def __init__(self, layout: Layout, *, pre_process: bool, post_process: bool) -> None:
        super().__init__(config=_language_config(layout))
        self.pre_process, self.post_process = pre_process, post_process
        # megatron-core's pipeline schedule and its sum of embedding gradients ask for these.
        self.model_type = ModelType.encoder_or_decoder
        self.share_embeddings_and_output_weights = False
        if pre_process:
            vision = _vision_config(layout)
            projector = deepcopy(self.config)
            projector.pipeline_model_parallel_size = 1
            self.visual = Visual(vision)
            self.merger = MultimodalProjector(projector, _projector_spec(), "mlp", vision.hidden_size)
        self.language_model = _language_model(layout, pre_process=pre_process, post_process=post_process)

    def set_input_tensor(self, tensor: Any) -> None:
        self.language_model.set_input_tensor(tensor[0] if isinstance(tensor, list) else tensor)

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, labels: Any = None
    ) -> Any:
        states = None
        if self.pre_process:
            states = self.language_model.embedding(input_ids=tokens, position_ids=positions)
            # One image of four patches stands before each text, in place of its first tokens.
            patches = torch.linspace(-1, 1, 48, device=states.device).view(4, 12)
            seen = self.merger(self.visual(patches))
            states = torch.cat([states[:4] + seen, states[4:]])
        return self.language_model(tokens, positions, mask, decoder_input=states, labels=labels)


def seeing(layout: Layout, *, pre_process: bool = True, post_process: bool = True) -> nn.Module:
    return Seeing(layout, pre_process=pre_process, post_process=post_process)


class Headed(nn.Module):
    """A language model with a head of its own, and without a config."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.value_head = nn.Linear(WORDS, 1)


def headed(layout: Layout) -> nn.Module:
    return Headed(_language_model(layout))


def bare(layout: Layout, *, pre_process: bool = True, post_process: bool = True) -> nn.Module:
    return _language_model(layout, pre_process=pre_process, post_process=post_process)


class Layer(nn.Module):
    """A layer of nobody's library."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(8, 8)


class OwnLayers(nn.Module):
    """A model of the user's own layers, which hang at its root."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.output_projection = nn.Linear(8, 8)


def own_layers() -> nn.Module:
    return OwnLayers()


def encoder(layout: Layout) -> nn.Module:
    return BertModel(
        config=_config(layout, layers=2, hidden=64),
        num_tokentypes=0,
        transformer_layer_spec=bert_layer_with_transformer_engine_spec,
        vocab_size=WORDS,
        max_sequence_length=64,
    )


def mtp(layout: Layout) -> nn.Module:
    config = _language_config(layout)
    config.mtp_num_layers = 1
    spec = get_gpt_layer_with_transformer_engine_spec()
    return GPTModel(
        config=config,
        transformer_layer_spec=spec,
        mtp_block_spec=get_gpt_mtp_block_spec(config, spec, use_transformer_engine=True),
        vocab_size=WORDS,
        max_sequence_length=64,
        position_embedding_type="rope",
    )
