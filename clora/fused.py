"""Fused linears: which canonical parts one holds, how many output rows each has, and the order they are packed in. Pure numbers.

megatron-core packs `linear_qkv` by key-value group, and `linear_fc1` by tensor-parallel rank:

    linear_qkv   group 0: q ... q [gate ... gate] k v | group 1: q ... q [gate ... gate] k v | ...
    linear_fc1   rank 0: gate ... gate up ... up      | rank 1: gate ... gate up ... up      | ...
"""

from __future__ import annotations

from dataclasses import dataclass

FUSED: dict[str, dict[str, str]] = {
    "linear_qkv": {"q": "linear_q", "k": "linear_k", "v": "linear_v"},
    "linear_fc1": {"gate": "linear_fc1_gate", "up": "linear_fc1_up"},
}
"""Last name of a fused linear -> canonical part -> the target that names it."""

PARTS_BY_TARGET: dict[str, tuple[str, str]] = {
    target: (fused, part) for fused, parts in FUSED.items() for part, target in parts.items()
}
"""Canonical target -> (last name of the fused linear, canonical part)."""


@dataclass(frozen=True, slots=True)
class FusedLayout:
    """How the output rows of one fused linear are packed, over all tensor-parallel ranks.

    The rows form `num_blocks` equal blocks; each block holds `rows_per_block` rows of every part, parts in that order.
    Rank r of n holds the r-th n-th of all rows: whole blocks, except where there are more ranks than key-value groups.
    """

    num_blocks: int
    rows_per_block: dict[str, int]

    @property
    def out_features(self) -> int:
        """Output rows of the whole fused linear."""
        return self.num_blocks * sum(self.rows_per_block.values())

    @property
    def out_features_by_part(self) -> dict[str, int]:
        """Output rows of each canonical part, all ranks together."""
        return {part: self.num_blocks * rows for part, rows in self.rows_per_block.items()}


def qkv_layout(*, num_attention_heads: int, num_query_groups: int, kv_channels: int, output_gate: bool) -> FusedLayout:
    """The packing of `linear_qkv`: one block per key-value group.

    With an attention output gate the query part is query and gate together, as megatron-core packs them side by side.
    """
    heads_per_group = num_attention_heads // num_query_groups
    query_rows = heads_per_group * kv_channels * (2 if output_gate else 1)
    return FusedLayout(num_query_groups, {"q": query_rows, "k": kv_channels, "v": kv_channels})


def fc1_layout(*, out_features: int, tp: int) -> FusedLayout:
    """The packing of a gated `linear_fc1` with `out_features` output rows in all, over `tp` tensor-parallel ranks."""
    rows = out_features // (2 * tp)
    return FusedLayout(tp, {"gate": rows, "up": rows})
