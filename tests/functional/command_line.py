"""Run the command line: in this process, where torch is imported once for all tests, or in a
process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.cli import main

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Ran:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


class CommandLine:
    """Runs commands in this process, without the environment variables that change our output."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capfd = capfd
        for name in list(os.environ):
            if name.startswith("CLORA_INSPECT_") or name in ("NO_COLOR", "FORCE_COLOR"):
                monkeypatch.delenv(name)

    def __call__(self, *words: str) -> Ran:
        self._capfd.readouterr()
        status = main(words)
        captured = self._capfd.readouterr()
        return Ran(status, captured.out, captured.err)


def own_process(*words: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m clora_inspect WORDS`."""
    return subprocess.run(
        [sys.executable, "-m", "clora_inspect", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        env=bare_environment() | environment,
    )


def modules_imported_by(*words: str, **environment: str) -> set[str]:
    """Return the names of all modules that a process has imported after it ran WORDS."""
    script = (
        "import contextlib, io, json, sys\n"
        "from clora_inspect.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    status = main(sys.argv[1:])\n"
        "print(json.dumps([int(status), list(sys.modules)]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=bare_environment() | environment,
    )
    status, modules = json.loads(ran.stdout)
    assert status == 0, ran.stderr
    return set(modules)


def bare_environment() -> dict[str, str]:
    """Return the environment without the variables that change our output."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CLORA_INSPECT_") and name not in ("NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING")
    } | {"PYTHONUTF8": "1"}
