"""Under a launcher `verify` uses the ranks that it is given, prints everything once, and ends on
all of them with the same exit code.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from clora.errors import DeviceError
from clora_inspect.machine.faults import RankLostError
from clora_inspect.verify.ranks.launch import Launch, LaunchError, check_master, launched
from clora_inspect.verify.ranks.worlds import open_world

if TYPE_CHECKING:
    from pathlib import Path

VERIFY = ("-m", "clora_inspect", "verify")
RESTLESS = """
import torch
from megatron.core import parallel_state
from torch import nn

class Restless(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, tokens, *_, **__):
        noise = torch.rand(1) if parallel_state.get_tensor_model_parallel_rank() == 1 else 0
        return self.linear(tokens[..., None].float().expand(-1, -1, 8)) + noise

def model():
    return Restless()
"""
"""A model whose outputs on the second rank differ each time it runs."""


def _environment(**more: str) -> dict[str, str]:
    own = ("CLORA_INSPECT_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)} | more


def _by_hand(folder: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Start two ranks as a launcher without a store of its own does; return exit code, stdout and
    stderr of each.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, *VERIFY, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=_environment(
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE="2",
                LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                OMP_NUM_THREADS="1",
            ),
        )
        for rank in "01"
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    return [(rank.returncode, *both) for rank, both in zip(ranks, said, strict=True)]


def test_torchrun_proves_a_layout_on_its_ranks_and_one_of_them_reports(tmp_path: Path) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [*torchrun, *VERIFY, "llama3-8b", "--tp", "2", "-f", "json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ranks"] == 2
    assert {proof["proof"]: proof["status"] for proof in report["proofs"]} | {"dropout": "passed"} == dict.fromkeys(
        (proof["proof"] for proof in report["proofs"]), "passed"
    )
    assert len(report["proofs"]) == 14


def test_a_proof_that_fails_on_one_rank_ends_all_of_them_with_one_report(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(RESTLESS)
    arguments = ("models.py:model", "--tp", "2", "--target-modules", "linear", "--no-progress")
    (first, text, narrated), (second, nothing, silence) = _by_hand(tmp_path, *arguments)
    assert (first, second) == (1, 1), narrated + silence
    assert "CL506 error base-twice, rank 1: The base model does not equal itself" in text
    assert (nothing, silence) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("llama3-8b", "--tp", "3"), "tp = 3 does not divide"), (("llama3-8b", "--size", "small"), "'small' is not one")],
    ids=["of the layout", "of an option"],
)
def test_a_mistake_is_told_by_the_first_rank_alone(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (first, text, narrated), (second, nothing, silence) = _by_hand(tmp_path, *arguments)
    assert (first, second) == (2, 2)
    assert narrated.count("error:") == narrated.count(said) == 1
    assert (text, nothing, silence) == ("", "", "")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Launch(3, 8, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "0"}, Launch(3, 8, 0)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, None),
        ({}, None),
    ],
    ids=["torchrun", "srun", "a pod in which nothing was launched", "a batch script without srun", "a shell"],
)
def test_what_the_environment_says_of_a_launcher(environment: dict[str, str], expected: Launch | None) -> None:
    assert launched(environment) == expected


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "abc"}, "RANK = 'abc'"),
        ({"RANK": "-1"}, "RANK = '-1'"),
        ({"RANK": "5"}, "RANK = 5 and WORLD_SIZE = 2"),
        ({"RANK": "9" * 5000}, "RANK = '999999999999...'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE = 0"),
        ({"LOCAL_RANK": "7"}, "LOCAL_RANK = 7"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK = '1.5'"),
        ({"RANK": ""}, "RANK is not"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is not"),
    ],
    ids=str,
)
def test_a_malformed_launcher_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(LaunchError, match=re.escape(said)):
        launched({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"} | environment)


@pytest.mark.parametrize(
    ("master", "said"),
    [
        ({"MASTER_PORT": "abc"}, "MASTER_PORT = 'abc'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT = '99999'"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT = 0"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
        ({"MASTER_ADDR": "a_b!c"}, "MASTER_ADDR = 'a_b!c'"),
    ],
    ids=str,
)
def test_a_malformed_address_of_the_first_rank_is_refused(
    monkeypatch: pytest.MonkeyPatch, master: dict[str, str], said: str
) -> None:
    for name, value in ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} | master).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=re.escape(said)):
        check_master()


def test_a_port_in_use_and_a_first_rank_that_is_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(RankLostError, match="the port is in use"):
            Launch(0, 3, 0).store(1.0)
        # The socket takes the connection and never answers.
        with pytest.raises(RankLostError, match=r"no answer within 1 s"):
            Launch(1, 3, 1).store(1.0)


def test_ranks_that_cannot_find_each_other_are_told_what_to_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(LaunchError, match=r"MASTER_ADDR and MASTER_PORT are not set.*export MASTER_ADDR="):
        Launch(1, 2, 1).store(1.0)


def test_local_processes_beside_launched_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match="--procs 4: 2 ranks were launched already"), open_world(4, "cpu"):
        pass
