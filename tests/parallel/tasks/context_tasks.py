"""Attend with the stand-in on context-parallel ranks."""

from __future__ import annotations

from typing import Any

import torch

TOKENS, ROWS, HEADS, GROUPS, WIDTH = 16, 2, 8, 4, 8


def attention(comm_type: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the output `[S, B, H * D]` of this rank's tokens, and the gradients of its q, k, v."""
    from megatron.core import parallel_state
    from transformer_engine.pytorch import DotProductAttention

    ranks, rank = parallel_state.get_context_parallel_world_size(), parallel_state.get_context_parallel_rank()
    layer = DotProductAttention(
        HEADS,
        WIDTH,
        num_gqa_groups=GROUPS,
        cp_group=parallel_state.get_context_parallel_group(),
        cp_global_ranks=list(range(ranks)),
        cp_comm_type=comm_type,
    )
    generator = torch.Generator().manual_seed(3)
    whole = [
        torch.randn(TOKENS, ROWS, heads, WIDTH, generator=generator, dtype=torch.float64)
        for heads in (HEADS, GROUPS, GROUPS)
    ]
    weights = torch.randn(TOKENS, ROWS, HEADS * WIDTH, generator=generator, dtype=torch.float64)
    own: list[Any] = [own_tokens(x, rank, ranks).requires_grad_() for x in whole]
    out = layer(*own, attn_mask_type="causal")
    (out * own_tokens(weights, rank, ranks)).sum().backward()
    return out.detach(), [x.grad for x in own]


def own_tokens(x: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """Return the two pieces of a sequence that a rank has: one from each end."""
    pieces = x.chunk(2 * ranks)
    return torch.cat([pieces[rank], pieces[2 * ranks - 1 - rank]])
