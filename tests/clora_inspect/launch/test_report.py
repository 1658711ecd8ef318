"""The lines that the gate prints."""

from __future__ import annotations

import pytest

from clora_inspect.launch.report import same


@pytest.mark.parametrize(
    ("ranks", "said"),
    [(1, "gate: 1 rank, with 1,234 adapters"), (2, "gate: 2 ranks agree with each other, with 1,234 adapters")],
)
def test_one_rank_has_nobody_to_agree_with(ranks: int, said: str) -> None:
    assert said in same(None, ranks, 1234)
