"""A file in somebody's folder runs only if a job names it, and hides no installed module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine, bare_environment

NAMES = (
    *("torch", "numpy", "einops", "megatron", "transformer_engine", "msgspec", "click", "networkx", "apex", "triton"),
    *("queue", "calendar", "timeit", "typing", "json", "random", "socket", "selectors", "signal", "secrets", "hmac"),
)
"""Installed modules, modules of Python, and packages that megatron-core tries to import."""

EVIL = 'open(__file__ + ".ran", "w").close()\nraise RuntimeError("this file must not run")\n'

FUNCTION = """
import torch, queue, helper
from helper import SIZE
assert "site-packages" in torch.__file__ and queue.Queue
def build(pre_process=True, post_process=True):
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig
    import late
    config = TransformerConfig(num_layers=1, hidden_size=SIZE, num_attention_heads=4)
    return GPTModel(config, get_gpt_layer_local_spec(), vocab_size=64, max_sequence_length=32)
"""

COMMAND = (str(Path(sys.executable).parent / "clora-inspect"),)
MODULE = (sys.executable, "-m", "clora_inspect")


def run(program: tuple[str, ...], *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=bare_environment() | environment,
    )


def ran_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.ran"))


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a file of the name of each of `NAMES`, and be in it."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_unnamed(variable: str) -> str:
    """Return PYTHONPATH with entries for the current folder, before those that it has here."""
    return os.pathsep.join(filter(None, [variable, os.environ.get("PYTHONPATH")]))


@pytest.mark.parametrize(
    ("program", "variable"),
    [
        pytest.param(COMMAND, None, id="command", marks=pytest.mark.nightly),
        pytest.param(MODULE, None, id="python -m", marks=pytest.mark.nightly),
        pytest.param(COMMAND, os.pathsep, id="empty entry", marks=pytest.mark.nightly),
        pytest.param(COMMAND, ".", id="dot", marks=pytest.mark.nightly),
        pytest.param(MODULE, f".{os.pathsep}", id="all of them"),
    ],
)
def test_nothing_in_the_current_folder_runs_for_a_built_in_model(
    program: tuple[str, ...], variable: str | None, hostile: Path
) -> None:
    environment = {} if variable is None else {"PYTHONPATH": with_unnamed(variable)}
    ran = run(program, "plan", "qwen2.5-0.5b", "--isolated", "--set", "model.num_layers=1", **environment)
    assert (ran.returncode, ran_in(hostile)) == (0, []), ran.stderr


@pytest.mark.nightly
def test_nothing_in_the_folder_of_a_configuration_runs_either(hostile: Path) -> None:
    Path("clora-inspect.toml").write_text('[jobs.j]\nmodel = "qwen2.5-0.5b"\nset.model = { num_layers = 1 }\n')
    ran = run(MODULE, "check", "--no-snapshot", "--verify", "tiny", "--exit-zero")
    assert (ran.returncode, ran_in(hostile)) == (0, []), ran.stderr


def test_nothing_in_the_current_folder_runs_in_the_ranks_of_a_proof(hostile: Path) -> None:
    words = ("verify", "qwen2.5-0.5b", "--isolated", "--tp", "2", "--procs", "2", "--proof", "base-twice")
    ran = run(COMMAND, *words)
    assert (ran.returncode, ran_in(hostile)) == (0, []), ran.stderr


@pytest.mark.nightly
def test_nothing_in_the_current_folder_runs_in_the_process_of_the_interface(hostile: Path) -> None:
    # The interface starts this module, inside the block that every command runs in.
    script = (
        "import subprocess, sys\n"
        "from clora_inspect.machine.import_path import WithoutCurrentFolder\n"
        "with WithoutCurrentFolder():\n"
        "    words = [sys.executable, '-m', 'clora_inspect.tui.job.child_process']\n"
        "    sys.exit(subprocess.run(words, stdin=subprocess.DEVNULL, timeout=200).returncode)\n"
    )
    (hostile / "script").mkdir()
    (hostile / "script/it.py").write_text(script)
    ran = run((sys.executable, str(hostile / "script/it.py")))
    assert (ran.returncode, ran_in(hostile)) == (0, []), ran.stderr


@pytest.mark.parametrize("name", ["recipes/f.py:build", pytest.param("f:build", marks=pytest.mark.nightly)])
def test_a_function_finds_its_helpers_and_the_installed_modules(name: str, hostile: Path) -> None:
    folder = hostile / Path(name).parent if name.endswith("py:build") else hostile
    folder.mkdir(exist_ok=True)
    # A package that is not installed is found in the folder of a function, as its helpers are.
    for module in ("apex", "triton"):
        (hostile / f"{module}.py").unlink()
    for module in set(NAMES) - {"apex", "triton"}:
        (folder / f"{module}.py").write_text(EVIL)
    (folder / "f.py").write_text(FUNCTION)
    (folder / "helper.py").write_text("SIZE = 64\n")
    (folder / "late.py").write_text("")
    ran = run(COMMAND, "plan", name, "--isolated", "--target-modules", "linear_proj")
    assert (ran.returncode, ran_in(hostile)) == (0, []), ran.stderr


def test_no_code_refuses_functions_and_checks_the_other_jobs(hostile: Path, clora_inspect: CommandLine) -> None:
    Path("f.py").write_text(EVIL)
    Path("clora-inspect.toml").write_text(
        '[jobs.file]\nmodel = "f.py:build"\n[jobs.module]\nmodel = "queue:build"\n'
        '[jobs.fine]\nmodel = "qwen2.5-0.5b"\nset.model = { num_layers = 1 }\n'
    )
    ran = clora_inspect("check", "--no-code", "--no-snapshot", "-f", "json")
    found = json.loads(ran.out)["findings"]
    assert (ran.status, ran_in(hostile)) == (2, [])
    refused = [finding["job"] for finding in found if "--no-code runs no code" in finding["message"]]
    assert sorted(refused) == ["file", "module"]
    assert "fine" in {finding["job"] for finding in found}
    accepted = clora_inspect("snapshot", "accept", "--no-code")
    assert (accepted.status, accepted.err.count("--no-code runs no code"), ran_in(hostile)) == (2, 2, [])
    assert "Accepted snapshots/fine/default.json" in accepted.err
    assert clora_inspect("check", "fine", "--no-code", "--no-snapshot", "--exit-zero").status == 0
