"""Build the modules of one rank: real megatron-core classes from the Transformer Engine specs. Call
inside a virtual cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.errors import CloraError, ModelError
from clora_inspect.sources.config import make_config, said
from clora_inspect.sources.definition import MODEL_ARGUMENTS, ModelDefinition
from clora_inspect.sources.user_callable import call

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.job.layout import Layout


def build_chunks(definition: ModelDefinition, layout: Layout) -> list[nn.Module]:
    """The model of the rank that is being played: one module, or one per virtual pipeline chunk.

    Raises:
        ModelError: megatron-core refuses the numbers.
        BuildError: the user's function failed.
    """
    import torch
    from megatron.core import parallel_state

    device = torch.device(torch.cuda.current_device())
    config = None if definition.family == "callable" else make_config(definition, layout, device)
    chunks = []
    for chunk in range(layout.vpp):
        vp_stage = chunk if layout.vpp > 1 else None
        if vp_stage is not None:
            parallel_state.set_virtual_pipeline_model_parallel_rank(vp_stage)
        ends = {
            "pre_process": parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            "post_process": parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        }
        with torch.device(device):
            if config is None:
                chunks.append(call(definition.name, layout, vp_stage=vp_stage, **ends))
            else:
                chunks.append(_built(definition, config, vp_stage, ends))
    return chunks


def _built(definition: ModelDefinition, config: Any, vp_stage: int | None, ends: dict[str, bool]) -> nn.Module:
    try:
        return (
            _mamba(definition, config, ends)
            if definition.family == "mamba"
            else _gpt(definition, config, vp_stage, ends)
        )
    except CloraError:
        raise
    except (ValueError, TypeError, AssertionError, RuntimeError, ArithmeticError, NotImplementedError) as error:
        raise ModelError(f"megatron-core cannot build {definition.name}: {said(error)}") from error


def _gpt(definition: ModelDefinition, config: Any, vp_stage: int | None, ends: dict[str, bool]) -> nn.Module:
    from megatron.core.models.gpt import GPTModel

    block = _decoder_spec(definition, config, vp_stage)
    model: type[GPTModel] = GPTModel
    if definition.family == "gemma2":
        from clora_inspect.sources.gemma2 import Gemma2Model

        model = Gemma2Model
    built: nn.Module = model(
        config,
        block,
        mtp_block_spec=_mtp_spec(config, block, vp_stage),
        vp_stage=vp_stage,
        **ends,
        **_arguments(definition),
    )
    return built


def _decoder_spec(definition: ModelDefinition, config: Any, vp_stage: int | None) -> Any:
    if definition.family == "gemma2":
        from clora_inspect.sources.gemma2 import decoder_block_spec

        return decoder_block_spec(config, vp_stage)
    if config.experimental_attention_variant is not None:
        from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
            get_transformer_block_with_experimental_attention_variant_spec,
        )

        return get_transformer_block_with_experimental_attention_variant_spec(config, vp_stage=vp_stage)
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    return get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)


def _mtp_spec(config: Any, block: Any, vp_stage: int | None) -> Any:
    """The multi-token-prediction block, on the stage that has it; its layers are like the decoder's
    last.
    """
    if not config.mtp_num_layers:
        return None
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_layer_specs, get_gpt_mtp_block_spec

    # A stage may hold no decoder layer and still the prediction layers.
    like = block if block.layer_specs else get_gpt_decoder_layer_specs(config, use_transformer_engine=True)[-1]
    return get_gpt_mtp_block_spec(config, like, use_transformer_engine=True, vp_stage=vp_stage)


def _mamba(definition: ModelDefinition, config: Any, ends: dict[str, bool]) -> nn.Module:
    from megatron.core.models.mamba import MambaModel
    from megatron.core.models.mamba.mamba_layer_specs import mamba_stack_spec

    model: nn.Module = MambaModel(config, mamba_stack_spec, **ends, **_arguments(definition))
    return model


def _arguments(definition: ModelDefinition) -> dict[str, Any]:
    """What the model class takes; what it reads off its config is there already."""
    return {name: value for name, value in definition.model.items() if name in MODEL_ARGUMENTS}
