"""Commands whose job names a function that exits, prints, or does not know the layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from command_line import CommandLine

SOURCE = """
import sys
from torch import nn
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig

def exits():
    sys.exit(0)

def prints():
    print("from the function")
    return nn.ModuleDict({"linear_proj": nn.Linear(8, 8)})

def has_odd_config():
    model = prints()
    model.config = 3
    return model

def exits_in_forward():
    model = ignores_layout()
    model.forward = lambda *arguments, **named: sys.exit(0)
    return model

def ignores_layout():
    config = TransformerConfig(num_layers=2, hidden_size=32, num_attention_heads=2)
    return GPTModel(config, get_gpt_layer_with_transformer_engine_spec(), vocab_size=64, max_sequence_length=32)
"""

CONFIGURATION = """
[lora.proj]
target_modules = ["linear_proj"]
dim = 4

[jobs.exits]
model = "models.py:exits"
lora = "proj"

[jobs.prints]
model = "models.py:prints"
lora = "proj"

[jobs.ignores]
model = "models.py:ignores_layout"
lora = "proj"
layouts.train = { pp = 2 }
"""


@pytest.fixture(autouse=True)
def folder() -> Path:
    Path("models.py").write_text(SOURCE)
    Path("clora-inspect.toml").write_text(CONFIGURATION)
    return Path()


def test_a_check_reports_the_job_that_exits_and_all_others(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("check", "-f", "json", "--no-snapshot")
    assert ran.status == ExitCode.FOUND
    report = json.loads(ran.out)
    assert {(found["code"], found["job"]) for found in report["findings"]} >= {("CL803", "exits"), ("CL306", "ignores")}
    assert "prints" not in {found["job"] for found in report["findings"] if found["code"] == "CL803"}
    assert ran.err.count("from the function") <= 1


@pytest.mark.parametrize("command", ["plan", "verify", "graph"])
def test_other_commands_end_with_3_whatever_it_passed_to_exit(clora_inspect: CommandLine, command: str) -> None:
    ran = clora_inspect(command, "exits")
    assert (ran.status, ran.out) == (ExitCode.BUILD, "")
    assert "models.py:exits called sys.exit(0) (models.py:9)." in ran.err


def test_accept_writes_the_other_jobs_and_ends_with_3(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("snapshot", "accept", "exits", "prints")
    assert ran.status == ExitCode.BUILD
    assert "Accepted" in ran.err
    assert "called sys.exit(0)" in ran.err


@pytest.mark.parametrize("command", [("plan",), ("verify", "--procs", "2")])
def test_a_layout_that_is_ignored_is_an_error_before_any_rank_starts(
    clora_inspect: CommandLine, command: tuple[str, ...]
) -> None:
    ran = clora_inspect(*command, "ignores")
    assert ran.status == ExitCode.USAGE
    assert "pipeline_model_parallel_size = 1, and the job has --pp 2" in ran.err
    assert "pre_process" in ran.err


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("prints", "ModuleDict has no config"),
        ("has_odd_config", "ended in AttributeError"),
        ("exits_in_forward", "ended in SystemExit: 0"),
    ],
)
def test_a_model_whose_memory_cannot_be_counted_is_refused(
    clora_inspect: CommandLine, function: str, reason: str
) -> None:
    ran = clora_inspect("plan", f"models.py:{function}", "--target-modules", "linear_proj", "--memory", "-f", "json")
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert f"The memory of models.py:{function} cannot be counted" in ran.err
    assert reason in ran.err
