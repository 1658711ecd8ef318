"""`clora-inspect fit`: a table for people, JSON for programs, and what a user gets wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import CommandLine


SMALL = (
    "--set model.num_layers=4 --set model.hidden_size=64 --set model.ffn_hidden_size=128 "
    "--set model.num_attention_heads=4 --set model.num_query_groups=2 --dim 4"
)


def test_layouts_are_listed_cheapest_first_with_what_was_assumed(clora_inspect: CommandLine) -> None:
    result = clora_inspect(*f"fit llama3-8b {SMALL} --gpus 4 --seq-length 64 --rows 3".split())
    assert result.status == 0, result.err
    assert "llama3-8b on 4 GPUs of 80 GiB" in result.out
    assert "more: --rows" in result.out
    assert "4 rows of 64 tokens a step" in result.out
    assert "no parallelism, needs" in result.out


def test_json_lists_every_layout_and_their_sum_is_every_candidate(clora_inspect: CommandLine) -> None:
    result = clora_inspect(*f"fit llama3-8b {SMALL} --gpus 2 --seq-length 64 -f json".split())
    assert result.status == 0, result.err
    document = json.loads(result.out)
    assert document["gpus"] == 2
    assert {"tp", "pp", "cp", "vpp", "dp", "recompute", "micro_batch_size", "peak_bytes"} <= document["layouts"][
        0
    ].keys()
    seconds = [layout["seconds"] for layout in document["layouts"]]
    assert seconds == sorted(seconds)
    assert all(layout["peak_bytes"] <= document["gpu_memory_bytes"] for layout in document["layouts"])


def test_where_nothing_fits_it_says_what_needs_least(clora_inspect: CommandLine) -> None:
    result = clora_inspect(*f"fit llama3-8b {SMALL} --gpus 1 --seq-length 64 --gpu-memory-gib 0.001".split())
    assert result.status == 1
    assert "Nothing fits. What needs least is" in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fit llama3-8b", "--gpus"),
        ("fit llama3-8b --gpus 0", "--gpus"),
        ("fit llama3-8b --gpus 8 --gpu-memory-gib 0", "--gpu-memory-gib"),
        ("fit llama3-8b --gpus 64 --global-batch-size 1 --seq-length 1", "cannot be spread over 64 GPUs"),
        ("fit llama3-8b --gpus 8 --implementation megatron-bridge", "leave --implementation out"),
    ],
)
def test_mistakes_are_named(clora_inspect: CommandLine, words: str, message: str) -> None:
    result = clora_inspect(*words.split())
    assert result.status == 2
    assert message in result.err
