"""The proofs find the known faults of Megatron-Bridge's own canonical LoRA, release 0.3.1.

Its wheel is installed without dependencies into a folder of its own. Everything that its LoRA
imports is installed here anyway.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

RELEASE = "megatron-bridge==0.3.1"
SMALL = ["--set", "model.num_layers=12"]
FAULTS: list[tuple[str, list[str], str, str, str]] = [
    # fault, arguments of the command, the proof that finds it, where, and a part of the message
    (
        "1: only q and v",
        ["llama3-8b", *SMALL, "--target-modules", "linear_q,linear_v"],
        "zero-b",
        "linear_qkv",
        r"only linear_q and linear_v are targeted, and this implementation calls the adapter of linear_k",
    ),
    (
        "2: rows of gate and up, saved by two ranks",
        ["llama3-8b", *SMALL, "--tp", "2", "--procs", "2", "--target-modules", "linear_fc1_up,linear_fc1_gate"],
        "checkpoint",
        r"linear_fc1\[(up|gate)\]",
        r"rows are in another order",
    ),
    (
        "3: output gate",
        ["qwen3-next-80b-a3b", "--set", "model.num_layers=4", "--target-modules", "linear_q,linear_k,linear_v"],
        "placements",
        r"linear_qkv\[q\]",
        r"output gate is forgotten",
    ),
    (
        "4: no gate",
        ["nemotron-4-15b", "--set", "model.num_layers=2"],
        "placements",
        "linear_fc1",
        r"an MLP without a gate has no halves",
    ),
    (
        "5: more ranks than groups",
        [
            "llama3-8b",
            *SMALL,
            "--set",
            "model.num_query_groups=1",
            "--tp",
            "2",
            "--procs",
            "2",
            "--target-modules",
            "linear_q,linear_k,linear_v",
        ],
        "causality",
        "linear_qkv",
        r"an adapter mixes tokens",
    ),
    (
        "6: odd number of tokens",
        ["llama3-8b", *SMALL, "--tp", "2", "--no-sp", "--procs", "2", "--target-modules", "linear_q,linear_k,linear_v"],
        "zero-b",
        "linear_qkv",
        r"shape '.*' is invalid for input of size",
    ),
    (
        "7: a dot in a wildcard",
        ["llama3-8b", *SMALL, "--target-modules", "*.layers.1.*.linear_proj"],
        "placements",
        r"layers\.1\d\.self_attention\.linear_proj",
        r"nowhere in the plan: decoder\.layers\.\{10\.\.11\}",
    ),
    (
        "8: overlapping targets",
        ["llama3-8b", *SMALL, "--target-modules", "*.layers.0.*.linear_q,linear_k,linear_v,linear_q"],
        "placements",
        r"layers\.0\.self_attention\.linear_qkv\[k\]",
        r"planned adapters are missing",
    ),
    (
        "10: applied twice",
        ["llama3-8b", *SMALL],
        "twice",
        "linear_",
        r"0 of \d+ adapter tensors trainable without a word",
    ),
    (
        "11: router",
        ["mixtral-8x7b", "--set", "model.num_layers=2", "--target-modules", "router"],
        "zero-b",
        "router",
        r"positional arguments",
    ),
]


@pytest.fixture(scope="module")
def bridge(wheel_of: Callable[[str], Path]) -> Path:
    """A folder with the release."""
    return wheel_of(RELEASE)


@pytest.fixture(scope="module")
def verified(bridge: Path) -> Callable[[list[str]], dict[str, dict[str, Any]]]:
    """Runs the command on the release; its proofs by name."""

    def run(arguments: list[str]) -> dict[str, dict[str, Any]]:
        command = [
            sys.executable,
            "-m",
            "clora_inspect",
            "verify",
            "--isolated",
            *arguments,
            "--implementation",
            "megatron-bridge",
            "-f",
            "jsonl",
        ]
        environment = {**os.environ, "PYTHONPATH": str(bridge)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
        assert done.returncode == 1, done.stderr[-3000:]
        *proofs, _report = [json.loads(line) for line in done.stdout.splitlines()]
        return {proof["proof"]: proof for proof in proofs}

    return run


@pytest.mark.parametrize(
    ("arguments", "proof", "where", "told"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS]
)
def test_a_fault_of_megatron_bridge_is_found(
    verified: Callable[[list[str]], dict[str, dict[str, Any]]], arguments: list[str], proof: str, where: str, told: str
) -> None:
    found = verified([*arguments, "--proof", "twice" if proof == "placements" else proof])[proof]
    assert found["status"] == "failed", found
    assert re.search(where, found["where"]), found
    assert re.search(told, found["detail"]), found
    assert found["code"].startswith("CL5")
