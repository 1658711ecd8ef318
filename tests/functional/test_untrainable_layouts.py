"""Layouts that megatron-core builds and cannot train, as a user meets them: each command names the
rule, with the exit code of a finding, before anything runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from command_line import CommandLine

ALL = "linear_q,linear_k,linear_v,linear_proj,linear_fc1_gate,linear_fc1_up,linear_fc2"
WITHOUT_SP = "raises ValueError in the first training forward (moe_layer.py)"
WITH_GATE = "cuts the query heads to the rank and not the gate"


def findings(done: Any) -> list[tuple[str, str]]:
    return [(finding["code"], finding["severity"]) for finding in json.loads(done.out)["findings"]]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("qwen3-30b-a3b", "--tp", "2", "--no-sp", "--target-modules", ALL), "CL315", WITHOUT_SP),
        (("mixtral-8x7b", "--tp", "4", "--no-sp", "--target-modules", ALL), "CL315", WITHOUT_SP),
        (("qwen3-next-80b-a3b", "--tp", "4", "--ep", "4"), "CL316", WITH_GATE),
        (("qwen3-next-80b-a3b", "--tp", "8", "--set", "model.num_layers=4"), "CL316", WITH_GATE),
    ],
)
def test_check_finds_it(clora_inspect: CommandLine, words: tuple[str, ...], code: str, says: str) -> None:
    done = clora_inspect("check", "--isolated", "--no-snapshot", "-f", "json", *words)
    assert done.status == 1
    assert [found for found in findings(done) if found[1] == "error"] == [(code, "error")]
    assert says in done.out
    assert "CL307" not in done.out


def test_plan_shows_it(clora_inspect: CommandLine) -> None:
    planned = clora_inspect("plan", "--isolated", "qwen3-next-80b-a3b", "--tp", "4", "--set", "model.num_layers=4")
    assert "CL316 error output-gate-exceeds-groups" in planned.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("qwen3-30b-a3b", "--tp", "2", "--no-sp", "--procs", "2"), "CL315", WITHOUT_SP),
        (("qwen3-next-80b-a3b", "--tp", "4", "--procs", "4"), "CL316", WITH_GATE),
        (("mixtral-8x7b", "--tp", "2", "--no-sp", "--size", "layer"), "CL315", WITHOUT_SP),
    ],
)
def test_verify_names_the_rule_and_runs_nothing(
    clora_inspect: CommandLine, words: tuple[str, ...], code: str, says: str
) -> None:
    done = clora_inspect("verify", "--isolated", "-f", "json", *words)
    assert done.status == 1
    report = json.loads(done.out)
    failed = [proof for proof in report["proofs"] if proof["status"] == "failed"]
    assert [(proof["code"], says in proof["detail"]) for proof in failed] == [(code, True)]
    others = {proof["status"] for proof in report["proofs"] if proof not in failed and proof["proof"] != "placements"}
    assert others == {"skipped"}
    assert all(code in proof["detail"] for proof in report["proofs"] if proof["status"] == "skipped")
    assert report["dropped"] == ["all proofs: none was run."]


def test_a_warning_of_what_only_a_gpu_shows_goes_into_the_verification(clora_inspect: CommandLine) -> None:
    lora = ("--target-modules", "linear_q,linear_proj")
    done = clora_inspect("check", "--isolated", "gpt-oss-20b", "--cp", "2", "--no-snapshot", "-f", "json", *lora)
    assert done.status == 0
    [finding] = [each for each in json.loads(done.out)["findings"] if each["severity"] == "warning"]
    assert finding["code"] == "CL317"
    assert "cp_comm_type = p2p (the default)" in finding["message"]
    assert finding["help"] == "set cp_comm_type = a2a in the model's config"
    verified = clora_inspect("verify", "--isolated", "gpt-oss-20b", "--cp", "2", "--proof", "base-twice", *lora)
    assert verified.status == 0
    assert "CL317: cp = 2 with cp_comm_type = p2p (the default)" in " ".join(verified.out.split())


def test_a_check_with_proofs_finds_it_once(clora_inspect: CommandLine) -> None:
    words = (
        "--config",
        'check.verify="tiny"',
        "--no-snapshot",
        "-f",
        "json",
        "mixtral-8x7b",
        "--tp",
        "2",
        "--no-sp",
        "--target-modules",
        ALL,
    )
    done = clora_inspect("--isolated", "check", *words)
    assert done.status == 1, done.err
    assert [found for found in findings(done) if found[1] == "error"] == [("CL315", "error")]
