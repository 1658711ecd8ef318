"""The GitHub action and the pre-commit hooks, run as they are in the repositories of others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import bare_environment

ROOT = Path(__file__).parents[3]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())

CONFIG = """\
[lora.main]
target_modules = ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_gate", "linear_fc1_up", "linear_fc2"]
dim = 16
alpha = 32

[jobs.small]
model = "qwen2.5-0.5b"
lora = "main"
set.model = { num_layers = 2 }
"""


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with an accepted snapshot, and its plan in the cache."""
    folder = tmp_path_factory.mktemp("accepted")
    (folder / "clora-inspect.toml").write_text(CONFIG)
    (folder / ".gitignore").write_text(".clora_cache/\n")
    _git(folder, "init", "-q", "-b", "main")
    _ran("clora-inspect", "-C", str(folder), "snapshot", "accept", "-q", CI="")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "Accept")
    return folder


@pytest.fixture
def repository(accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the current folder."""
    folder = tmp_path / "repository"
    shutil.copytree(accepted, folder)
    monkeypatch.chdir(folder)
    return folder


def environment() -> dict[str, str]:
    """`clora-inspect` is found as after an installation."""
    scripts = str(Path(sys.executable).parent)
    return bare_environment() | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


def _ran(*words: str, status: int = 0, **variables: str) -> str:
    ran = subprocess.run(words, env=environment() | variables, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def _git(folder: Path, *words: str) -> None:
    _ran("git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e", *words)


def _step(identity: str) -> Any:
    (step,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == identity]
    return step


def _act(folder: Path, *, status: int = 0, **inputs: str) -> tuple[str, Path]:
    """Run the action's own script with `inputs`, as a runner does: its text is fixed, and
    expressions stand in `env` alone.
    """
    step = _step("check")
    given = {name: inputs.get(name, declared.get("default", "")) for name, declared in ACTION["inputs"].items()}
    variables = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    runner = folder / "runner"
    runner.mkdir(exist_ok=True)
    script = runner / "step.sh"
    script.write_text(step["run"])
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder,
        env=environment()
        | variables
        | {"RUNNER_TEMP": str(runner), "GITHUB_OUTPUT": str(runner / "output"), "GITHUB_ACTIONS": "true", "CI": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout, runner


def test_the_action_passes_a_repository_that_is_as_it_was_accepted(repository: Path) -> None:
    out, runner = _act(repository)
    assert out == ""
    name, _, path = (runner / "output").read_text().strip().partition("=")
    assert (name, json.loads(Path(path).read_text())["exit_code"]) == ("report", 0)


def test_the_action_annotates_what_it_finds(repository: Path) -> None:
    config = repository / "clora-inspect.toml"
    config.write_text(config.read_text().replace('"linear_fc1_gate", ', ""))
    out, runner = _act(repository, status=1, sarif="found.sarif", arguments="--fail-on warning")
    assert "::error title=CL703 placement-removed,file=snapshots/small/default.json" in out
    assert json.loads((repository / "found.sarif").read_text())["version"] == "2.1.0"
    assert json.loads((runner / "clora-inspect.json").read_text())["exit_code"] == 1
    assert not list(repository.glob("snapshots/**/*.new")), "never in CI"


@pytest.mark.parametrize("inputs", [{"arguments": "; touch pwned"}, {"sarif": "$(touch pwned)"}], ids=str)
def test_inputs_of_the_action_are_words_and_no_commands(repository: Path, inputs: dict[str, str]) -> None:
    _act(repository, status=2 if "arguments" in inputs else 0, **inputs)
    assert not (repository / "pwned").exists()


def test_scripts_of_the_action_have_no_expressions() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])


@pytest.fixture
def offered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository that offers our hooks. They install nothing, so their file is all of it."""
    folder = tmp_path_factory.mktemp("hooks")
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", folder)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Offer"]):
        _git(folder, *words)
    return folder


def _hook(offered: Path, name: str, *words: str, status: int = 0) -> str:
    home = str(offered.parent / "pre-commit-home")
    try_repo = (sys.executable, "-m", "pre_commit", "try-repo", "--color", "never", str(offered), name, "--all-files")
    return _ran(*try_repo, *words, status=status, PRE_COMMIT_HOME=home, CI="true")


def test_the_hooks_pass_and_fail_as_the_commands_do(repository: Path, offered: Path) -> None:
    assert {hook["id"]: hook.get("stages") for hook in HOOKS} == {"clora-config": None, "clora-check": ["pre-push"]}
    config = repository / "clora-inspect.toml"
    assert "Passed" in _hook(offered, "clora-config")
    assert "Passed" in _hook(offered, "clora-check", "--hook-stage", "pre-push")
    config.write_text(CONFIG.replace('"linear_fc2"', '"linear_fc3"'))
    assert "CL101" in _hook(offered, "clora-check", "--hook-stage", "pre-push", status=1)
    config.write_text(CONFIG.replace("alpha", "aplha"))
    assert "Did you mean alpha?" in _hook(offered, "clora-config", status=1)
