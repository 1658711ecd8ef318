"""Merging on any layout gives the weights and outputs that merging on one rank gives."""

from __future__ import annotations

from functools import cache
from typing import Any

import lora_models
import pytest
import torch
from gloo import on_ranks

from clora_inspect.job.layout import Layout

BOUND = 1e-10
CASES: list[Any] = [
    ("gqa", True, {"tp": 2}),
    pytest.param("gqa", True, {"tp": 2, "sp": False}, marks=pytest.mark.nightly),
    ("gqa", True, {"tp": 4}),
    ("gqa", True, {"tp": 2, "pp": 2, "vpp": 2}),
    ("mqa", True, {"tp": 4}),
    ("output-gate", True, {"tp": 2}),
    pytest.param("no-gate", True, {"tp": 2}, marks=pytest.mark.nightly),
    ("mla", True, {"tp": 2}),
    ("gemma2", True, {"tp": 2}),
    pytest.param("gemma2", True, {"tp": 2, "sp": False}, marks=pytest.mark.nightly),
    ("sequential-experts", True, {"tp": 2, "ep": 2, "etp": 1}),
    ("grouped-experts", True, {"tp": 2, "ep": 2, "etp": 2}),
    ("grouped-experts", False, {"tp": 2, "ep": 2, "etp": 2}),
    pytest.param("grouped-experts", True, {"ep": 4}, marks=pytest.mark.nightly),
    ("grouped-experts", False, {"tp": 2, "ep": 4, "etp": 1}),
    ("shared-experts", True, {"tp": 2, "ep": 2, "etp": 1}),
]


@cache
def on_one_rank(kind: str, share: bool, layers: int) -> dict[str, torch.Tensor]:
    axes = {} if layers == 2 else {"pp": 2}
    return lora_models.assembled(
        shard
        for rank in on_ranks(Layout(**axes), "merge_tasks:merged", kind, axes, share, ranks=4)
        for shard in rank["shards"]
    )


@pytest.mark.parametrize(("kind", "share", "axes"), CASES)
def test_merged_weights_are_those_of_one_rank(kind: str, share: bool, axes: dict[str, Any]) -> None:
    ranks = on_ranks(Layout(**axes), "merge_tasks:merged", kind, axes, share, ranks=4)
    assert all(rank["changed"] > 4 and rank["unrestored"] == [] for rank in ranks)
    assert max(rank["moved"] for rank in ranks) < BOUND
    weights = lora_models.assembled(shard for rank in ranks for shard in rank["shards"])
    expected = on_one_rank(kind, share, 4 if axes.get("pp") else 2)
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(
            weight, expected[name], rtol=BOUND, atol=BOUND, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_stage_that_cannot_be_merged_leaves_the_others_as_they_were() -> None:
    ranks = on_ranks(Layout(pp=2), "merge_tasks:merged_pipeline", ["linear_proj", "output_layer"], True, ranks=4)
    assert all("output_layer has the embedding's weight" in rank["message"] for rank in ranks)
    assert [rank["changed"] for rank in ranks] == [0, 0, 0, 0]


def test_an_output_layer_whose_tied_weight_nobody_uses_is_refused() -> None:
    """Where several tokens are predicted, the last stage has an embedding, which its output layer
    multiplies with. megatron-core does not mark the weight that it makes beside it.
    """
    ranks = on_ranks(
        Layout(pp=2), "merge_tasks:merged_pipeline", ["linear_proj", "output_layer"], False, "tied-mtp", ranks=4
    )
    assert all("output_layer has the embedding's weight" in rank["message"] for rank in ranks)
    assert [rank["changed"] for rank in ranks] == [0, 0, 0, 0]


def test_a_stage_without_adapters_is_merged_too() -> None:
    ranks = on_ranks(Layout(pp=2), "merge_tasks:merged_pipeline", ["output_layer"], False, ranks=4)
    assert [(rank["message"], rank["changed"]) for rank in ranks] == [("", 0), ("", 0), ("", 1), ("", 1)]
