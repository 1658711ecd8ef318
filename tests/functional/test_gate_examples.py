"""The trainers of examples/gate run as their first lines say: planned, launched, let through."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "gate"
MODEL = "tiny_gpt.py"
RUNS = [
    ("plain_loop.py", 2),
    ("pre_wrap_hooks.py", 2),
    ("pretrain.py", 4),
    pytest.param("plain_loop.py", 4, marks=pytest.mark.nightly),
    pytest.param("pre_wrap_hooks.py", 4, marks=pytest.mark.nightly),
    pytest.param("pretrain.py", 2, marks=pytest.mark.nightly),
]
PYTHON = {
    "clora-inspect": [sys.executable, "-m", "clora_inspect"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}


def test_every_trainer_is_run_here() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == {"plain_loop.py", "pre_wrap_hooks.py", "pretrain.py", MODEL}


@pytest.mark.parametrize(("name", "ranks"), RUNS)
def test_a_trainer_is_planned_launched_and_let_through(tmp_path: Path, name: str, ranks: int) -> None:
    shutil.copytree(FOLDER, tmp_path / "examples" / "gate", ignore=shutil.ignore_patterns("__pycache__"))
    plan, gate = _commands(name)
    planned = _run(plan, tmp_path)
    assert planned.returncode == 0, planned.stderr
    gate[gate.index("--nproc-per-node") + 1] = str(ranks)
    ran = _run(gate, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("gate: ") == 1
    assert f"gate: {ranks} ranks as expected by {tmp_path / 'plan.json'}: 12 adapters, 6,656 parameters." in ran.stderr
    trained, adapters = re.findall(r"8 micro-batches trained (\d+) of (\d+) adapters of the last rank", ran.stdout)[0]
    assert trained == adapters != "0"


@pytest.mark.nightly
def test_a_launched_run_that_differs_is_reported_once_and_does_not_train(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "examples" / "gate", ignore=shutil.ignore_patterns("__pycache__"))
    plan, gate = _commands("plain_loop.py")
    plan[plan.index("--dim") + 1] = "8"
    assert _run(plan, tmp_path).returncode == 0
    ran = _run(gate, tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.count("gate: 2 of 2 ranks differ from") == 1
    assert "rank 8, in 128, out 64, A in/tp, B out/tp -> rank 4, in 128, out 64" in ran.stderr
    assert "never reached" not in ran.stderr
    assert "trained" not in ran.stdout


def _commands(name: str) -> tuple[list[str], list[str]]:
    """Return the two commands in the first lines of a trainer."""
    text = ast.get_docstring(ast.parse((FOLDER / name).read_text())) or ""
    lines = re.findall(r"^ *(clora-inspect (?:.*\\\n)*.*)", text, re.MULTILINE)
    plan, gate = (shlex.split(line.replace("\\\n", "")) for line in lines)
    return plan, gate


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [part for word in words for part in PYTHON.get(word, [word])]
    own = ("CLORA_INSPECT_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    # By default gloo resolves the name of the host, which not every machine can.
    environment |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, cwd=folder, env=environment
    )
