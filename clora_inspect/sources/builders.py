"""Build each kind of model: `BUILDERS` has one builder for each `ModelKind`, but for a user's
function, which `build` calls.

megatron-core is imported when a builder runs, because it must be the one of the virtual world.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import nn

from clora.errors import ModelError
from clora.families.base.model_kind import ModelKind
from clora.layer_pattern import LayerPattern
from clora_inspect.sources.config import check_arguments, make_config
from clora_inspect.sources.definition import MODEL_ARGUMENTS, ModelDefinition
from clora_inspect.sources.errors import refusals_of_megatron
from clora_inspect.sources.hf import read_config
from clora_inspect.sources.hybrid_layers import refuse_scales, written_pattern
from clora_inspect.sources.layout_fields import layout_fields
from clora_inspect.sources.model_name import config_file
from clora_inspect.sources.pipeline_split import SPLIT_FIELDS
from clora_inspect.virtual.releases import normalises_plain_queries

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of the rank's model that is built; the fields are those of megatron's providers."""

    vp_stage: int | None
    """Number of the virtual pipeline chunk; None without an interleaved pipeline."""
    pre_process: bool
    """True if it has the embedding."""
    post_process: bool
    """True if it has the output layer."""


BuildChunk = Callable[[Chunk], nn.Module]
Builder = Callable[[ModelDefinition, "Layout", torch.device], BuildChunk]
"""Prepares what all chunks of a rank share, and returns the function that builds one of them."""


def _from_config(build: Callable[[ModelDefinition, Any, Chunk], nn.Module]) -> Builder:
    """Return a builder of models that megatron-core's config object describes."""

    def builder(definition: ModelDefinition, layout: Layout, device: torch.device) -> BuildChunk:
        config, own = _config_and_form(definition, layout, device)

        def build_chunk(chunk: Chunk) -> nn.Module:
            with refusals_of_megatron(f"megatron-core cannot build {definition.name}"):
                return build(own, config, chunk)

        return build_chunk

    return builder


def _config_and_form(definition: ModelDefinition, layout: Layout, device: torch.device) -> tuple[Any, ModelDefinition]:
    """Return megatron-core's config, and the definition with the form that its layers have to be
    given in this release.
    """
    config, form = make_config(definition, layout, device), definition.layers
    # Where one field means the norms of queries and of latents, the layers get theirs one by one.
    norms_by_hand = (
        form.has_latent_norm_alone and config.qk_layernorm and config.q_lora_rank is None and normalises_plain_queries()
    )
    if norms_by_hand:
        config.qk_layernorm = False
    form = msgspec.structs.replace(form, has_latent_norm_alone=norms_by_hand)
    return config, msgspec.structs.replace(definition, layers=form)


def _gpt(definition: ModelDefinition, config: Any, chunk: Chunk) -> nn.Module:
    from megatron.core.models.gpt import GPTModel

    from clora_inspect.sources.gpt.scaled_model import FACTORS, Gemma2Model, ScaledGPTModel

    layers = _changed_layers(definition, config, chunk.vp_stage)
    is_scaled = any(definition.model.get(factor) is not None for factor in FACTORS)
    model_class = ScaledGPTModel if is_scaled else GPTModel
    if definition.kind is ModelKind.GEMMA2:
        model_class = Gemma2Model
    return _decoder(model_class, layers, definition, config, chunk)


def _hybrid(definition: ModelDefinition, layout: Layout, device: torch.device) -> BuildChunk:
    from clora_inspect.sources.gpt.hybrid_stack import hybrid_config, hybrid_model_class, hybrid_stack
    from clora_inspect.sources.gpt.scaled_model import FACTORS

    model_class = hybrid_model_class()
    refuse_scales(definition.name, definition.model, FACTORS)
    arguments = _hybrid_arguments(definition, model_class)
    config, definition = _config_and_form(definition, layout, device)
    split = {**definition.config, **definition.split(layout).fields}
    pattern = written_pattern(definition.config, split, layout)
    with refusals_of_megatron(f"megatron-core cannot build {definition.name}"):
        block = _changed_layers(definition, _without_pipeline(config), None)
        stack = hybrid_stack(block, LayerPattern.read(pattern).letters)
    config = hybrid_config(config)

    def build_chunk(chunk: Chunk) -> nn.Module:
        with refusals_of_megatron(f"megatron-core cannot build {definition.name}"):
            return model_class(
                config,
                stack,
                hybrid_layer_pattern=pattern,
                vp_stage=chunk.vp_stage,
                pre_process=chunk.pre_process,
                post_process=chunk.post_process,
                **arguments,
            )

    return build_chunk


def _hybrid_arguments(definition: ModelDefinition, model_class: type[Any]) -> dict[str, Any]:
    arguments = _arguments(definition, model_class)
    unknown = arguments.keys() - signature(model_class).parameters.keys()
    # Switched off they do nothing.
    set_ones = sorted(name for name in unknown if arguments[name] and arguments.get("rope_scaling", True))
    if set_ones:
        raise ModelError(
            f"{definition.name} has {', '.join(set_ones)}, which HybridModel does not know. Leave out "
            "--model-class hybrid."
        )
    return {name: value for name, value in arguments.items() if name not in unknown}


def _mamba(definition: ModelDefinition, config: Any, chunk: Chunk) -> nn.Module:
    from megatron.core.models.mamba import MambaModel
    from megatron.core.models.mamba.mamba_layer_specs import mamba_stack_spec

    # No `vp_stage`: megatron-core's Mamba models have no virtual stages.
    model: nn.Module = MambaModel(
        config,
        mamba_stack_spec,
        pre_process=chunk.pre_process,
        post_process=chunk.post_process,
        **_arguments(definition, MambaModel),
    )
    return model


def _decoder(
    model_class: Callable[..., nn.Module], layers: Any, definition: ModelDefinition, config: Any, chunk: Chunk
) -> nn.Module:
    """Build a `GPTModel`, or a subclass, with the decoder block that `layers` specifies."""
    from megatron.core.models.gpt import GPTModel

    return model_class(
        config,
        layers,
        mtp_block_spec=_prediction_layers(definition, config, layers, chunk.vp_stage),
        vp_stage=chunk.vp_stage,
        pre_process=chunk.pre_process,
        post_process=chunk.post_process,
        **_arguments(definition, GPTModel),
    )


def _changed_layers(definition: ModelDefinition, config: Any, vp_stage: int | None) -> Any:
    """Return the spec of the decoder block of one chunk, in the form of the model's family."""
    from clora_inspect.sources.gpt.block_spec import change_layers

    layers = _gpt_layers(config, vp_stage)
    change_layers(layers, definition.layers, config)
    return layers


def _gpt_layers(config: Any, vp_stage: int | None) -> Any:
    """Return megatron-core's spec of a decoder block of Transformer Engine modules."""
    from clora_inspect.sources.gpt.sparse_attention import SPARSE

    # megatron-core builds no block for sparse attention by itself: `change_layers` puts it in.
    if config.experimental_attention_variant not in {None, SPARSE}:
        from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
            get_transformer_block_with_experimental_attention_variant_spec,
        )

        return get_transformer_block_with_experimental_attention_variant_spec(config, vp_stage=vp_stage)
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    return get_gpt_decoder_block_spec(
        config, use_transformer_engine=True, qk_l2_norm=config.qk_l2_norm, vp_stage=vp_stage
    )


def _prediction_layers(definition: ModelDefinition, config: Any, layers: Any, vp_stage: int | None) -> Any:
    """Return the spec of the multi-token-prediction block; None for a stage without one."""
    if not config.mtp_num_layers:
        return None
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_mtp_block_spec

    # The prediction layers are built like the decoder's last layer. A stage may hold no decoder
    # layer and still the prediction layers.
    if not layers.layer_specs:
        layers = _changed_layers(definition, _without_pipeline(config), None)
    return get_gpt_mtp_block_spec(config, layers, use_transformer_engine=True, vp_stage=vp_stage)


def _without_pipeline(config: Any) -> Any:
    """Return a copy of `config` with which megatron-core specifies all layers of the model."""
    # A copy and no `replace`: that would check and derive all fields again.
    whole = copy(config)
    whole.pipeline_model_parallel_size, whole.virtual_pipeline_model_parallel_size = 1, None
    for field in SPLIT_FIELDS:
        setattr(whole, field, None)
    return whole


def _arguments(definition: ModelDefinition, model_class: type[Any]) -> dict[str, Any]:
    check_arguments(definition, model_class)
    # The other entries of `model` are attributes of the config: `make_config` has set them.
    return {name: value for name, value in definition.model.items() if name in MODEL_ARGUMENTS}


def _bridge(definition: ModelDefinition, layout: Layout, device: torch.device) -> BuildChunk:
    from clora_inspect.bridge import provider

    path = config_file(definition.name)
    values = {} if path is None else read_config(path).values
    with torch.device(device):
        made = provider.provider_of(definition.name, values)
        provider.prepare(definition.name, made, definition.config, layout_fields(layout), is_meta=device.type == "meta")

    def build_chunk(chunk: Chunk) -> nn.Module:
        return provider.provide(
            definition.name,
            made,
            vp_stage=chunk.vp_stage,
            pre_process=chunk.pre_process,
            post_process=chunk.post_process,
        )

    return build_chunk


BUILDERS: dict[ModelKind, Builder] = {
    ModelKind.GPT: _from_config(_gpt),
    ModelKind.GEMMA2: _from_config(_gpt),
    ModelKind.HYBRID: _hybrid,
    ModelKind.MAMBA: _from_config(_mamba),
    ModelKind.BRIDGE: _bridge,
}
