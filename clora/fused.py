"""Fused linears: which canonical parts one holds, how many output rows each has, and the order they
are packed in. Pure numbers.

megatron-core packs `linear_qkv` by key-value group, and `linear_fc1` by tensor-parallel rank:

    linear_qkv   group 0: q ... q [gate ... gate] k v | group 1: q ... q [gate ... gate] k v | ...
    linear_fc1   rank 0: gate ... gate up ... up      | rank 1: gate ... gate up ... up      | ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.errors import GeometryError

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    The rows form `num_blocks` equal blocks; each block holds `rows_per_block` rows of every part,
    parts in that order. Rank r of n holds the r-th n-th of all rows: whole blocks, except where
    there are more ranks than key-value groups.
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

    def on_rank(self, rank: int, size: int) -> RankRows:
        """What rank `rank` of `size` holds: whole blocks, or a stretch of one block where there are
        more ranks than blocks.

        Raises:
            GeometryError: the ranks divide neither the blocks nor a block.
        """
        if self.num_blocks % size == 0:
            return RankRows(
                self.num_blocks // size,
                tuple(Stretch(part, rows) for part, rows in self.rows_per_block.items()),
                whole_blocks=True,
            )
        if size % self.num_blocks or self.out_features % size:
            raise GeometryError(
                f"{self.num_blocks} key-value groups over tp = {size}: megatron-core cuts a group over ranks only where tp is a "
                f"multiple of the groups. Use a tp that divides {self.num_blocks} or is a multiple of it."
            )
        rows = self.out_features // size
        block, first = divmod(rank * rows, self.out_features // self.num_blocks)
        return RankRows(1, tuple(self._stretches(block, first, first + rows)), whole_blocks=False)

    def _stretches(self, block: int, first: int, last: int) -> Iterator[Stretch]:
        """The stretches between two rows of one block, `last` left out; one of no rows for a part
        that has none there.
        """
        start = 0
        for part, rows in self.rows_per_block.items():
            begin, end = (min(max(edge, start), start + rows) for edge in (first, last))
            yield Stretch(part, end - begin, block * rows + begin - start)
            start += rows


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring output rows of one canonical part."""

    part: str
    rows: int
    start: int = 0
    """Number of the first of them among all rows of the part, all ranks together. Counts only in a
    cut block.
    """


@dataclass(frozen=True, slots=True)
class RankRows:
    """The output rows of a fused linear on one rank: `num_blocks` times the stretches, in their
    order.
    """

    num_blocks: int
    stretches: tuple[Stretch, ...]
    whole_blocks: bool
    """True when the rank's rows of a part are the rank's share of that part; False when a block is
    cut over ranks, so that they are not.
    """

    @property
    def sizes(self) -> list[int]:
        """Rows of each stretch."""
        return [stretch.rows for stretch in self.stretches]


def qkv_layout(*, num_attention_heads: int, num_query_groups: int, kv_channels: int, output_gate: bool) -> FusedLayout:
    """The packing of `linear_qkv`: one block per key-value group.

    With an attention output gate the query part is query and gate together, as megatron-core packs
    them side by side.
    """
    heads_per_group = num_attention_heads // num_query_groups
    query_rows = heads_per_group * kv_channels * (2 if output_gate else 1)
    return FusedLayout(num_query_groups, {"q": query_rows, "k": kv_channels, "v": kv_channels})


def fc1_layout(*, out_features: int, tp: int) -> FusedLayout:
    """The packing of a gated `linear_fc1` with `out_features` output rows in all, over `tp`
    tensor-parallel ranks.
    """
    rows = out_features // (2 * tp)
    return FusedLayout(tp, {"gate": rows, "up": rows})
