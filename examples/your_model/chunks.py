"""All chunks of a rank in a list, each in `Float16Module`, as Megatron's `get_model` returns them.

clora-inspect plan chunks.py:get_model --pp 2 --vpp 2
"""

from __future__ import annotations

from gpt import model_provider
from megatron.core import parallel_state
from megatron.core.transformer.module import Float16Module


def get_model(layout):
    chunks = []
    for number in range(layout.vpp):
        vp_stage = number if layout.vpp > 1 else None
        where = {"ignore_virtual": False, "vp_stage": vp_stage}
        model = model_provider(
            layout,
            pre_process=parallel_state.is_pipeline_first_stage(**where),
            post_process=parallel_state.is_pipeline_last_stage(**where),
            vp_stage=vp_stage,
        )
        chunks.append(Float16Module(model.config, model))
    return chunks
