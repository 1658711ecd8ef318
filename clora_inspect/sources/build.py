"""Build the modules of one rank from megatron-core's own classes, inside a virtual cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.sources.builders import BUILDERS, Chunk

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition


def build_chunks(definition: ModelDefinition, layout: Layout) -> list[nn.Module]:
    """Build the model of the rank that is being played: one module for each of its `vpp` chunks.

    Raises:
        ModelError: megatron-core refuses the numbers.
        BuildError: the user's function failed.
    """
    from megatron.core import parallel_state

    device = torch.device(torch.cuda.current_device())
    build = BUILDERS[definition.kind](definition, layout, device)
    chunks = []
    for number in range(layout.vpp):
        vp_stage = number if layout.vpp > 1 else None
        if vp_stage is not None:
            # Parts of megatron-core and model providers ask for it instead of taking an argument.
            parallel_state.set_virtual_pipeline_model_parallel_rank(vp_stage)
        chunk = Chunk(
            vp_stage=vp_stage,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        )
        # torch's own modules, and most users' functions, build on torch's current device.
        with torch.device(device):
            chunks.append(build(chunk))
    return chunks
