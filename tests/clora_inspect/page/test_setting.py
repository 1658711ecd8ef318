"""Values of settings in words."""

from __future__ import annotations

import pytest

from clora_inspect.page.setting import in_words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true"),
        (None, "none"),
        (16, "16"),
        (1e-06, "1e-06"),
        ("silu", "silu"),
        ([], "none"),
        ({}, "none"),
        (["linear_q", "linear_v"], "linear_q, linear_v"),
        ([0, 0, 0], "0, 0, 0"),
        ([0] * 3 + [1] * 58, "0 × 3, 1 × 58"),
        ([0, 1] * 8, ", ".join("01" * 8)),
        ({"factor": 8.0, "truncate": False}, "factor: 8.0, truncate: false"),
        ([[1, 2], None], "[1, 2], none"),
    ],
)
def test_a_value_is_short_and_whole(value: object, words: str) -> None:
    assert in_words(value) == words
