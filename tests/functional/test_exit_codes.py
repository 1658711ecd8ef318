"""Every command with every kind of mistake: the exit status says whose it is, and is never 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

FILES = {
    "bad.json": "{",
    "snapshot.json": '{"schema": 1, "job": 1}',
    "plan.json": '{"schema": 1, "rank_classes": [{}]}',
    "m.py": "def raises():\n    raise RuntimeError('no weights here')\n",
}
COMMANDS = (
    "plan",
    "check",
    "verify",
    "graph",
    "diff",
    "explain decoder",
    "snapshot accept",
    "snapshot show",
    "tui --screenshot a.svg",
)
MISTAKES = {
    "nosuch": ExitCode.USAGE,
    "bad.json": ExitCode.USAGE,
    "snapshot.json": ExitCode.USAGE,
    "plan.json": ExitCode.USAGE,
    "m.py:raises": ExitCode.BUILD,
    "m.py:rases": ExitCode.USAGE,
    "owner/model": ExitCode.USAGE,
    "https://example.org/model": ExitCode.USAGE,
    "/dev/zero": ExitCode.USAGE,
    "\0": ExitCode.USAGE,
    "--nope": ExitCode.USAGE,
    ".": ExitCode.USAGE,
}
TAKES_NO_MODEL = ("snapshot show",)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_exit_status_of_a_mistake(
    clora_inspect: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for mistake, status in MISTAKES.items():
        ran = clora_inspect(*command.split(), mistake)
        wanted = ExitCode.USAGE if command in TAKES_NO_MODEL else status
        # A function that fails is a finding of a check.
        if command == "check" and wanted is ExitCode.BUILD:
            wanted = ExitCode.FOUND
        assert ran.status == wanted, (mistake, ran)
        assert "internal error" not in ran.err
        assert "Traceback" not in ran.err
        assert ran.err or ran.out
    assert not (tmp_path / "a.svg").exists()
