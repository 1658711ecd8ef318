"""Where the rows of canonical parts stand in a fused linear: megatron-core's packing, written down
a second time for the proofs. Pure.

The library has its own formula (`clora.fused`). This one is not derived from it, and its code has
another shape, so that a fault in either shows as a difference.
"""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, int]
"""A canonical part, and the number of the row among all rows of that part."""


def fused_rows(block: Sequence[tuple[str, int]], blocks: int) -> list[Row]:
    """All output rows of a fused linear in their order: `blocks` times the parts of a block.

    Args:
        block: (part, rows of it) in the order in which they stand.
        blocks: key-value groups, or tensor-parallel ranks for an MLP.
    """
    return [(part, number * rows + row) for number in range(blocks) for part, rows in block for row in range(rows)]


def qkv_rows(*, heads: int, groups: int, channels: int, gate: bool) -> list[Row]:
    """The rows of a `linear_qkv` over all ranks: for each key-value group its queries (with their
    gates), its key, its value.
    """
    queries = heads // groups * channels
    return fused_rows([("q", queries * (2 if gate else 1)), ("k", channels), ("v", channels)], groups)


def fc1_rows(*, rows: int, ranks: int) -> list[Row]:
    """The rows of a gated `linear_fc1` over all ranks: each rank's gate, then its up projection."""
    return fused_rows([("gate", rows // 2 // ranks), ("up", rows // 2 // ranks)], ranks)


def on_rank(rows: Sequence[Row], rank: int, ranks: int) -> list[Row]:
    """What one of `ranks` ranks holds: the next stretch of rows, wherever that begins and ends."""
    size = len(rows) // ranks
    return list(rows[rank * size : (rank + 1) * size])
