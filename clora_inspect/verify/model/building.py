"""Build the model under test: this rank's part of it, or one layer by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from clora_inspect.sources.build import build_chunks
from clora_inspect.verify.model.randomness import switch_off
from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition


def build(definition: ModelDefinition, layout: Layout, *, one_layer: bool = False) -> list[nn.Module]:
    """Build this rank's chunks.

    Args:
        definition: the model.
        layout: the layout of the process groups that are in place.
        one_layer: build without embedding and output layer: hidden states in, hidden states out.
            Parameters keep whatever is in their memory.
    """
    if one_layer:
        return _build_middle(definition, layout)
    chunks = build_chunks(definition, layout)
    if definition.is_user_function:
        # The function made its own config, so randomness can only be switched off afterwards.
        switch_off(chunks)
    return chunks


def _build_middle(definition: ModelDefinition, layout: Layout) -> list[nn.Module]:
    from megatron.core import parallel_state

    # megatron-core builds an embedding on the first stage and an output layer on the last one.
    in_the_middle = {
        "is_pipeline_first_stage": lambda *_args, **_options: False,
        "is_pipeline_last_stage": lambda *_args, **_options: False,
    }
    # The proofs draw values of their own in place. At true width, initialising the parameters
    # before that would take longer than the proofs.
    no_initialisation = {"normal_": lambda tensor, *_args, **_options: tensor}
    with replaced(parallel_state, in_the_middle), replaced(torch.nn.init, no_initialisation):
        return build_chunks(definition, layout)
