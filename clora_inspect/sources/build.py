"""Build the modules of one rank from megatron-core's own classes, inside a virtual cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora.families.base.model_kind import ModelKind
from clora_inspect.sources import user_function
from clora_inspect.sources.builders import BUILDERS, Chunk
from clora_inspect.sources.errors import BuildError
from clora_inspect.sources.function_layout import check_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition


def build_chunks(definition: ModelDefinition, layout: Layout) -> list[nn.Module]:
    """Build the model of the rank that is being played: one module for each of its `vpp` chunks.

    Raises:
        ModelError: megatron-core refuses the numbers.
        BuildError: the user's function failed.
        LayoutError: the user's function has built its model for another layout.
    """
    device = torch.device(torch.cuda.current_device())
    if definition.kind is ModelKind.USER_FUNCTION:
        return _call_function(definition.name, layout, device)
    build = BUILDERS[definition.kind](definition, layout, device)
    chunks = []
    for chunk in _chunks(layout):
        with torch.device(device):
            chunks.append(build(chunk))
    return chunks


def _chunks(layout: Layout) -> Iterator[Chunk]:
    """Yield the chunks of this rank, each while megatron-core takes it for the current one."""
    from megatron.core import parallel_state

    for number in range(layout.vpp):
        vp_stage = number if layout.vpp > 1 else None
        if vp_stage is not None:
            # Parts of megatron-core and model providers ask for it instead of taking an argument.
            parallel_state.set_virtual_pipeline_model_parallel_rank(vp_stage)
        yield Chunk(
            vp_stage=vp_stage,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        )


def _call_function(name: str, layout: Layout, device: torch.device) -> list[nn.Module]:
    """Call the user's function until it has returned all chunks of the rank, and check them."""
    models: list[nn.Module] = []
    for number, chunk in enumerate(_chunks(layout)):
        if len(models) == number:
            # torch's own modules, and most users' functions, build on torch's current device.
            with torch.device(device):
                models += user_function.call(
                    name,
                    layout,
                    vp_stage=chunk.vp_stage,
                    pre_process=chunk.pre_process,
                    post_process=chunk.post_process,
                )
        if len(models) > layout.vpp:
            raise BuildError(
                f"{name} returned {len(models)} chunks for {layout.vpp}: one at some calls, all at others."
            )
        check_chunk(name, models[number], layout, pre_process=chunk.pre_process, post_process=chunk.post_process)
    return models
