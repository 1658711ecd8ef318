"""`plan --memory` has traffic and FLOPs beside memory, and `plan` without it has neither."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import CommandLine

SMALL = shlex.split(
    "plan llama3-8b --tp 2 --pp 2 --world-size 8 --dim 4 --set model.num_layers=4 --set model.hidden_size=64 "
    "--set model.ffn_hidden_size=128 --set model.num_attention_heads=4 --set model.num_query_groups=2"
)


def test_every_rank_class_has_traffic_and_flops(clora_inspect: CommandLine) -> None:
    plan = json.loads(clora_inspect(*SMALL, "--memory", "--seq-length", "64", "-f", "json").out)
    for ranks in plan["rank_classes"]:
        assert ranks["flops"].keys() == {"base_forward", "base_backward", "adapter_forward", "adapter_backward"}
        assert all(number > 0 for number in ranks["flops"].values())
        assert {line["from"] for line in ranks["traffic"]} == {"base", "adapter"}
        for line in ranks["traffic"]:
            assert {"axis", "collective", "phase", "from", "bytes"} <= line.keys()
            assert 0 < line["sent_bytes"] <= line["bytes"]
        # dp = 2: gradients are reduced and weights gathered, once a step.
        per_step = {line["phase"] for line in ranks["traffic"] if line["axis"] == "dp-cp"}
        assert per_step == {"gradient reduction", "parameter gather"}
    first, last = ([line for line in each["traffic"] if line["axis"] == "pp"] for each in plan["rank_classes"])
    # 64 tokens over 2 ranks of tp, 64 wide, in bf16.
    assert [(line["phase"], line["bytes"]) for line in first] == [("forward", 32 * 64 * 2)]
    assert [(line["phase"], line["bytes"]) for line in last] == [("backward", 32 * 64 * 2)]


def test_the_text_has_a_line_for_each_and_a_table(clora_inspect: CommandLine) -> None:
    out = clora_inspect(*SMALL, "--memory", "--seq-length", "64").out
    assert "traffic, per rank:" in out
    assert "once a step" in out
    assert "a formula without LoRA counts" in out
    # 64 tokens, 4 micro-batches, dp 2.
    assert "512 tokens a step" in out
    assert "gradient reduction, once a step" in out


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_plan_without_it_counts_nothing(clora_inspect: CommandLine, form: str) -> None:
    out = clora_inspect(*SMALL, "-f", form).out
    assert "traffic" not in out
    assert "flops" not in out.lower()


def test_the_memory_of_a_gpu_that_was_typed_is_what_the_peak_is_compared_with(clora_inspect: CommandLine) -> None:
    words = [*SMALL, "--seq-length", "64", "--isolated", "--gpu-memory-gib"]
    too_small, enough = (clora_inspect(*words, size) for size in ("0.01", "80"))
    assert "peak, per rank:" in enough.out
    assert "CL805" not in enough.out
    assert "and the GPU has 0.01 GiB" in too_small.out
    refused = clora_inspect(*words, "0")
    assert refused.status == 2
    assert "--gpu-memory-gib" in refused.err
