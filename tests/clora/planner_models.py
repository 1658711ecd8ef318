"""Build small real models on the meta device to plan them. Every function enters the virtual world
itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tiny_models

from clora import CanonicalLoRA
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.plan import Placement, Plan

ONE = Layout()
NO_GATE = {"gated_linear_unit": False}
SEQUENTIAL = {**tiny_models.MOE, "moe_grouped_gemm": False}


@contextmanager
def chunks(layout: Layout = ONE, rank: int = 0, **fields: Any) -> Iterator[list[nn.Module]]:
    """Yield the model chunks of one rank, while the virtual cluster exists.

    `fields` are fields of `TransformerConfig`.
    """
    with quiet(), virtual_megatron("meta"), virtual_cluster(layout, rank):
        yield built(layout, **fields)


def built(layout: Layout, device: str = "meta", **fields: Any) -> list[nn.Module]:
    """Return the chunks of the virtual cluster's rank, on the device of the virtual world."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec

    if layout.vpp > 1:
        fields = {"virtual_pipeline_model_parallel_size": layout.vpp, "num_layers": 2 * layout.pp * layout.vpp} | fields
    tied = fields.pop("tied", False)
    config = tiny_models.config(layout, device, **fields)
    made: list[nn.Module] = []
    for chunk in range(layout.vpp):
        vp_stage = chunk if layout.vpp > 1 else None
        spec = get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)
        has_mtp = config.mtp_num_layers and last
        with torch.device(device):
            model = GPTModel(
                config,
                spec,
                tiny_models.VOCABULARY,
                tiny_models.SEQUENCE,
                mtp_block_spec=get_gpt_mtp_block_spec(config, spec, use_transformer_engine=True) if has_mtp else None,
                pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
                post_process=last,
                position_embedding_type="rope",
                share_embeddings_and_output_weights=tied,
                vp_stage=vp_stage,
            )
        made.append(model)
    return made


def plan_of(lora: CanonicalLoRA | None = None, layout: Layout = ONE, rank: int = 0, **fields: Any) -> Plan:
    """Return the plan of `lora`, by default with its defaults, on one rank."""
    with chunks(layout, rank, **fields) as model:
        return (lora or CanonicalLoRA()).plan(model)


def targeting(*targets: str, **arguments: Any) -> CanonicalLoRA:
    return CanonicalLoRA(target_modules=list(targets), **arguments)


def ats(plan: Plan) -> list[str]:
    """Return path and part of every placement, in order."""
    return [placement.at for placement in plan.placements]


def at(plan: Plan, suffix: str) -> Placement:
    """Return the first placement whose path and part end with `suffix`."""
    return next(placement for placement in plan.placements if placement.at.endswith(suffix))
