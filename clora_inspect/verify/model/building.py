"""Build what is proved: a rank's whole model, or one layer by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition


def built(definition: ModelDefinition, layout: Layout, *, ends: bool = True) -> list[nn.Module]:
    """This rank's chunks. Without `ends` they have neither embedding nor output layer: hidden
    states in, hidden states out.
    """
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.verify.model.randomness import switch_off

    if ends:
        chunks = build_chunks(definition, layout)
        if definition.is_user_function:
            switch_off(chunks)
        return chunks
    import torch
    from megatron.core import parallel_state

    from clora_inspect.virtual.attributes import replaced

    in_the_middle = {
        "is_pipeline_first_stage": lambda *_args, **_options: False,
        "is_pipeline_last_stage": lambda *_args, **_options: False,
    }
    # Values are drawn afterwards, in place: at true width drawing them twice would take longer than
    # the proofs.
    with (
        replaced(parallel_state, in_the_middle),
        replaced(torch.nn.init, {"normal_": lambda tensor, *_args, **_options: tensor}),
    ):
        return build_chunks(definition, layout)
