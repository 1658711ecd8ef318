"""The stand-in's attention on context-parallel ranks gives what one rank gives."""

from __future__ import annotations

import context_tasks
import pytest
import torch
from gloo import on_ranks

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("comm_type", ["p2p", "all_gather", "a2a"])
def test_outputs_and_gradients_are_those_of_one_rank(comm_type: str, ranks: int) -> None:
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        out, gradients = context_tasks.attention(comm_type)
    for rank, (own_out, own_gradients) in enumerate(on_ranks(Layout(cp=ranks), "context_tasks:attention", comm_type)):
        assert torch.allclose(own_out, context_tasks.own_tokens(out, rank, ranks))
        for own, whole in zip(own_gradients, gradients, strict=True):
            assert torch.allclose(own, context_tasks.own_tokens(whole, rank, ranks))
