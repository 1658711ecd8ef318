"""`--set workload.FIELD=VALUE` sets any field of a workload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from command_line import CommandLine

SIZES = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 2}
PLAN = ("plan", "llama3-8b", *(word for name, value in SIZES.items() for word in ("--set", f"model.{name}={value}")))


def _plan(clora_inspect: CommandLine, *words: str) -> dict[str, Any]:
    ran = clora_inspect(*PLAN, *words, "--memory", "-f", "json")
    assert ran.status == ExitCode.OK, ran.err
    plan: dict[str, Any] = json.loads(ran.out)
    return plan


def test_any_field_is_set_and_counted(clora_inspect: CommandLine) -> None:
    fields = {"seq_length": 128, "memory_allowance_gib": 0.5, "optimizer_state_bytes": 6, "recompute": "full"}
    plan = _plan(
        clora_inspect, *(word for name, value in fields.items() for word in ("--set", f"workload.{name}={value}"))
    )
    assert fields.items() <= plan["workload"].items()
    memory = plan["rank_classes"][0]["memory"]
    assert memory["allowance_bytes"] == 1 << 29
    assert memory["optimizer_bytes"] == 6 * plan["rank_classes"][0]["trainable_params"]
    # As the option of that name.
    assert (
        plan["rank_classes"]
        == _plan(
            clora_inspect,
            *("--recompute", "full", "--seq-length", "128"),
            *("--set", "workload.memory_allowance_gib=0.5", "--set", "workload.optimizer_state_bytes=6"),
        )["rank_classes"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workload.seq_len=8", "A workload has no field 'seq_len'. Did you mean seq_length?"),
        ("workload.seq_length=0", "workload.seq_length: expected a whole number >= 1."),
        ("workload.seq_length=16777217", "workload.seq_length: expected a whole number <= 16777216."),
        ("workload.seq_length=true", "workload.seq_length: expected a whole number, got true or false."),
        ("workload.memory_allowance_gib=1e9", "workload.memory_allowance_gib: expected a number <= 65536."),
        ("workload.recompute=half", "workload.recompute: 'half' does not say what is recomputed: write none|selective"),
        ("workload.global_batch_size=0", "workload.global_batch_size: expected a whole number >= 1."),
        ("worklod.seq_length=8", "'worklod' is none of lora, model, workload. Did you mean workload.seq_length?"),
    ],
)
def test_mistakes_are_named(clora_inspect: CommandLine, text: str, said: str) -> None:
    ran = clora_inspect(*PLAN, "--set", text)
    assert ran.status == ExitCode.USAGE
    assert said in ran.err


BATCH = ("--num-microbatches", "4", "--micro-batch-size", "2", "--seq-length", "128")


def test_two_lengths_of_a_step_must_agree(clora_inspect: CommandLine) -> None:
    plan = _plan(clora_inspect, *BATCH, "--set", "workload.global_batch_size=8")
    assert plan["workload"]["num_microbatches"] == 4
    ran = clora_inspect(*PLAN, *BATCH, "--memory", "--set", "workload.global_batch_size=16")
    assert ran.status == ExitCode.USAGE
    assert ran.out == ""
    assert (
        "num_microbatches = 4 and global_batch_size = 16: 4 micro-batches of 2 rows on dp = 1 ranks are 8 rows"
        in ran.err
    )


def test_a_typed_length_of_a_step_replaces_a_configured_one(clora_inspect: CommandLine) -> None:
    Path("clora-inspect.toml").write_text(
        f'[jobs.j]\nmodel = "llama3-8b"\nset.model = {{ {", ".join(f"{k} = {v}" for k, v in SIZES.items())} }}\n'
        "workload = { seq_length = 128, num_microbatches = 4 }\n"
    )
    ran = clora_inspect("plan", "j", "--memory", "--set", "workload.global_batch_size=16")
    assert ran.status == ExitCode.OK, ran.err
    assert "global_batch_size = 16 counts, in place of num_microbatches = 4 of the configuration" in ran.err
    assert "2,048 tokens a step" in ran.out


def test_a_configuration_that_contradicts_itself_is_refused(clora_inspect: CommandLine) -> None:
    Path("clora-inspect.toml").write_text(
        '[jobs.j]\nmodel = "llama3-8b"\nlayouts = { a = { tp = 2, world_size = 8 } }\n'
        "workload = { num_microbatches = 4, global_batch_size = 4 }\n"
    )
    for words in (["config", "validate"], ["check"], ["plan", "j"]):
        ran = clora_inspect(*words)
        assert ran.status == ExitCode.USAGE
        assert "clora-inspect.toml:4" in ran.err
        assert "4 micro-batches of 1 rows on dp = 4 ranks are 16 rows" in ran.err
