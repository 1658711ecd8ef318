"""Fixtures of the command-line tests. They also make `command_line`, the runner, importable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

HERE = Path(__file__).parent

sys.path[:0] = [str(HERE), str(HERE / "install")]

if TYPE_CHECKING:
    from command_line import CommandLine


@pytest.fixture(autouse=True)
def _where_nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Run every test in an empty folder: this repository has a configuration of its own, whose jobs
    have the names of built-in architectures.
    """
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def clora_inspect(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Return the runner: `clora_inspect("plan", "llama3-8b")` runs the command in this process."""
    from command_line import CommandLine

    return CommandLine(capfd, monkeypatch)


@pytest.fixture(scope="session")
def saved_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a plan of a small dense model on two stages by the command itself; return its path."""
    from clora_inspect.cli import main

    path = tmp_path_factory.mktemp("plans") / "small.json"
    words = ("plan", "qwen2.5-0.5b", "--tp", "2", "--pp", "2", "--dim", "16", "--set", "model.num_layers=4")
    assert main([*words, "-q", "-o", str(path)]) == 0
    return path
