"""The rows of fused linears on one rank, compared with numbers worked out by hand."""

from __future__ import annotations

import pytest

from clora.errors import GeometryError
from clora.fused import FusedLayout, fc1_layout, qkv_layout

QKV = qkv_layout(num_attention_heads=8, num_query_groups=2, kv_channels=4, output_gate=False)


def stretches(layout: FusedLayout, rank: int, size: int) -> tuple[int, list[tuple[str, int, int]]]:
    rows = layout.on_rank(rank, size)
    return rows.num_blocks, [(stretch.part, stretch.rows, stretch.start) for stretch in rows.stretches]


def test_a_rank_holds_whole_groups_where_they_divide() -> None:
    assert stretches(QKV, 0, 1) == (2, [("q", 16, 0), ("k", 4, 0), ("v", 4, 0)])
    assert stretches(QKV, 1, 2) == (1, [("q", 16, 0), ("k", 4, 0), ("v", 4, 0)])
    assert QKV.on_rank(1, 2).whole_blocks


def test_a_group_is_cut_where_there_are_more_ranks_than_groups() -> None:
    # Two groups of 24 rows over 4 ranks: 12 rows each. The first rank of a group has queries only.
    assert not QKV.on_rank(0, 4).whole_blocks
    assert stretches(QKV, 0, 4) == (1, [("q", 12, 0), ("k", 0, 0), ("v", 0, 0)])
    assert stretches(QKV, 1, 4) == (1, [("q", 4, 12), ("k", 4, 0), ("v", 4, 0)])
    assert stretches(QKV, 2, 4) == (1, [("q", 12, 16), ("k", 0, 4), ("v", 0, 4)])
    assert stretches(QKV, 3, 4) == (1, [("q", 4, 28), ("k", 4, 4), ("v", 4, 4)])


def test_every_row_of_a_part_is_on_one_rank() -> None:
    for size in (4, 8):
        for part, total in QKV.out_features_by_part.items():
            rows = [
                range(stretch.start, stretch.start + stretch.rows)
                for rank in range(size)
                for stretch in QKV.on_rank(rank, size).stretches
                if stretch.part == part
            ]
            assert sorted(row for stretch in rows for row in stretch) == [*range(total)]


def test_query_and_gate_are_one_part() -> None:
    gated = qkv_layout(num_attention_heads=8, num_query_groups=2, kv_channels=4, output_gate=True)
    assert stretches(gated, 0, 1) == (2, [("q", 32, 0), ("k", 4, 0), ("v", 4, 0)])


def test_gate_comes_before_up_on_every_rank() -> None:
    assert stretches(fc1_layout(out_features=24, tp=2), 1, 2) == (1, [("gate", 6, 0), ("up", 6, 0)])


def test_ranks_that_cut_groups_unevenly_are_refused() -> None:
    three = qkv_layout(num_attention_heads=6, num_query_groups=3, kv_channels=4, output_gate=False)
    with pytest.raises(GeometryError, match="3 key-value groups over tp = 2"):
        three.on_rank(0, 2)
