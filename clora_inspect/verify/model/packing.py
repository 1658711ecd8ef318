"""The rows of canonical parts in a fused linear: megatron-core's packing, written down a second
time for the proofs. Pure.

The library has its own formula (`clora.fused`). This one is not derived from it, and its code has
another shape, so that a mistake in either shows as a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PackedRow = tuple[str, int]
"""A canonical part, and the number of the row among all rows of that part."""


def fused_rows(block: Sequence[tuple[str, int]], blocks: int) -> list[PackedRow]:
    """Return all output rows of a fused linear in their order: the parts of one block after the
    other, repeated `blocks` times.

    Args:
        block: (part, number of its rows) in the order of the rows.
        blocks: number of key-value groups; for an MLP, of tensor-parallel ranks.
    """
    return [(part, number * rows + row) for number in range(blocks) for part, rows in block for row in range(rows)]


def qkv_rows(*, heads: int, groups: int, channels: int, gate: bool) -> list[PackedRow]:
    """Return the rows of a `linear_qkv` over all ranks. Each key-value group has its queries (with
    their output gates), its key and its value.
    """
    queries = heads // groups * channels
    return fused_rows([("q", queries * (2 if gate else 1)), ("k", channels), ("v", channels)], groups)


def fc1_rows(*, rows: int, ranks: int) -> list[PackedRow]:
    """Return the rows of a gated `linear_fc1` over all ranks. Each rank has its gate part, then its
    up part.
    """
    return fused_rows([("gate", rows // 2 // ranks), ("up", rows // 2 // ranks)], ranks)


MAMBA_SECTIONS = ("z", "x", "B", "C", "dt")
DELTA_NET_SECTIONS = ("query", "key", "value", "z", "beta", "alpha")
"""Sections of an `in_proj`, in their order on each rank; checkpoints keep them apart by name."""


def mamba_shares(config: Any) -> tuple[int, ...]:
    """Return the rows of each of `MAMBA_SECTIONS` over all ranks."""
    channels, bc = config.mamba_head_dim, config.mamba_num_groups * config.mamba_state_dim
    # Without a number of heads, megatron-core's mixer is twice as wide as the model.
    heads = config.mamba_num_heads or config.hidden_size * 2 // channels
    return heads * channels, heads * channels, bc, bc, heads


def delta_net_shares(config: Any) -> tuple[int, ...]:
    """Return the rows of each of `DELTA_NET_SECTIONS` over all ranks."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    heads = config.linear_num_value_heads
    values = heads * config.linear_value_head_dim
    return keys, keys, values, values, heads, heads


def on_rank(rows: Sequence[PackedRow], rank: int, ranks: int) -> list[PackedRow]:
    """Return the rows that one of `ranks` ranks holds: equal cuts, even through a group."""
    size = len(rows) // ranks
    return list(rows[rank * size : (rank + 1) * size])
