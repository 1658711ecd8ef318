"""Fused linears: their canonical parts, and the order in which megatron-core packs the rows.

megatron-core packs the output rows of `linear_qkv` by key-value group, and those of a gated
`linear_fc1` by tensor-parallel rank:

    linear_qkv   group 0: q ... q [gate ... gate] k v | group 1: q ... q [gate ... gate] k v | ...
    linear_fc1   rank 0: gate ... gate up ... up      | rank 1: gate ... gate up ... up      | ...

(The gate in brackets is attention's output gate.) The `in_proj` of a Mamba layer or of a gated
delta net is packed by rank as well, and is adapted as a whole:

    Mamba        rank 0: z x B C dt                   | rank 1: z x B C dt                   | ...
    delta net    rank 0: query key value z beta alpha | rank 1: query key value z beta alpha | ...

Everything here is numbers: the module needs neither torch nor megatron-core.
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
"""Last name of a fused linear -> canonical part -> target that names the part."""

PARTS_BY_TARGET: dict[str, tuple[str, str]] = {
    target: (fused, part) for fused, parts in FUSED.items() for part, target in parts.items()
}
"""Target that names a canonical part -> (last name of the fused linear, part)."""

Sections = tuple[tuple[str, int], ...]
"""(name, rows over all tensor-parallel ranks) of each section of a linear that is adapted as a
whole. A rank holds its share of every section, one behind the other.
"""


@dataclass(frozen=True, slots=True)
class FusedLayout:
    """How the output rows of one fused linear are packed, over all tensor-parallel ranks.

    The rows form `num_blocks` equal blocks, and the ranks share them in order. A rank holds whole
    blocks, unless there are more ranks than key-value groups.
    """

    num_blocks: int
    rows_per_block: dict[str, int]
    """Canonical part -> its rows in one block, in the order in which the parts are packed."""

    @property
    def out_features(self) -> int:
        """Output rows of the fused linear on all ranks."""
        return self.num_blocks * sum(self.rows_per_block.values())

    @property
    def out_features_by_part(self) -> dict[str, int]:
        """Canonical part -> its output rows on all ranks."""
        return {part: self.num_blocks * rows for part, rows in self.rows_per_block.items()}

    def on_rank(self, rank: int, size: int) -> RankRows:
        """Return the rows on rank `rank` of `size` tensor-parallel ranks.

        Raises:
            GeometryError: `size` neither divides the number of blocks nor is a multiple of it.
        """
        if self.num_blocks % size == 0:
            return RankRows(
                self.num_blocks // size,
                tuple(Stretch(part, rows) for part, rows in self.rows_per_block.items()),
                whole_blocks=True,
            )
        if size % self.num_blocks or self.out_features % size:
            raise GeometryError(
                f"{self.num_blocks} key-value groups over tp = {size}: megatron-core cuts a group over ranks only "
                f"where tp is a multiple of the groups. Use a tp that divides {self.num_blocks} or is a multiple of it."
            )
        # megatron-core gives every rank a run of equally many rows, wherever the parts begin in it.
        rows = self.out_features // size
        block, first = divmod(rank * rows, self.out_features // self.num_blocks)
        return RankRows(1, tuple(self._stretches(block, first, first + rows)), whole_blocks=False)

    def _stretches(self, block: int, first: int, last: int) -> Iterator[Stretch]:
        """Yield one stretch per part for the rows `first` to `last` (excluded) of one block.

        A part without rows there gives a stretch of 0 rows, so that every rank has all parts.
        """
        start = 0
        for part, rows in self.rows_per_block.items():
            # The run from `first` to `last`, cut to the rows of this part.
            begin, end = (min(max(edge, start), start + rows) for edge in (first, last))
            yield Stretch(part, end - begin, block * rows + begin - start)
            start += rows


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring output rows of one canonical part."""

    part: str
    rows: int
    start: int = 0
    """Index of the first of them among the part's rows on all ranks. Only used when a block is cut
    over ranks; 0 otherwise.
    """


@dataclass(frozen=True, slots=True)
class RankRows:
    """The output rows of a fused linear on one rank: the stretches in order, `num_blocks` times."""

    num_blocks: int
    stretches: tuple[Stretch, ...]
    whole_blocks: bool
    """True when a rank's rows of a part are that rank's share of B. False when a block is cut over
    ranks: then the rank needs rows of B that other ranks hold.
    """

    @property
    def sizes(self) -> list[int]:
        return [stretch.rows for stretch in self.stretches]


def qkv_layout(*, num_attention_heads: int, num_query_groups: int, kv_channels: int, output_gate: bool) -> FusedLayout:
    """Return the packing of `linear_qkv`: one block per key-value group.

    Args:
        num_attention_heads: query heads of all ranks.
        num_query_groups: key-value groups of all ranks.
        kv_channels: channels of one head.
        output_gate: whether attention has an output gate. Its rows lie behind the query rows of the
            group and belong to the part q, as in Hugging Face's q_proj.
    """
    heads_per_group = num_attention_heads // num_query_groups
    query_rows = heads_per_group * kv_channels * (2 if output_gate else 1)
    return FusedLayout(num_query_groups, {"q": query_rows, "k": kv_channels, "v": kv_channels})


def fc1_layout(*, out_features: int, tp: int) -> FusedLayout:
    """Return the packing of a gated `linear_fc1`: one block per tensor-parallel rank.

    Args:
        out_features: output rows of all ranks, gate and up together.
        tp: tensor-parallel ranks.
    """
    rows = out_features // (2 * tp)
    return FusedLayout(tp, {"gate": rows, "up": rows})


def gate_up_sections(out_features: int) -> Sections:
    """Return the sections of a gated `linear_fc1` that is adapted as a whole."""
    return ("gate", out_features // 2), ("up", out_features // 2)


def mamba_sections(*, out_features: int, head_dim: int, num_groups: int, state_dim: int) -> Sections:
    """Return the sections of the `in_proj` of a Mamba-2 mixer, in Hugging Face's order too.

    Args:
        out_features: output rows of all ranks.
        head_dim: channels of one head.
        num_groups: groups of heads of all ranks; the heads of a group share B and C.
        state_dim: size of the state of one channel.
    """
    # The number of heads is not always in the config: z and x have `head_dim` rows for each head,
    # and dt has one.
    heads = (out_features - 2 * num_groups * state_dim) // (2 * head_dim + 1)
    return (
        ("z", heads * head_dim),
        ("x", heads * head_dim),
        ("B", num_groups * state_dim),
        ("C", num_groups * state_dim),
        ("dt", heads),
    )


def delta_net_sections(*, key_dim: int, value_dim: int, num_value_heads: int) -> Sections:
    """Return the sections of the `in_proj` of a gated delta net.

    Args:
        key_dim: channels of all key heads, which are as many as those of the queries.
        value_dim: channels of all value heads.
        num_value_heads: value heads of all ranks.
    """
    return (
        ("query", key_dim),
        ("key", key_dim),
        ("value", value_dim),
        ("z", value_dim),
        ("beta", num_value_heads),
        ("alpha", num_value_heads),
    )
