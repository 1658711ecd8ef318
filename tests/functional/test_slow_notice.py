"""Every command that plans says on stderr when that takes long, also without a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora_inspect.cli import main

if TYPE_CHECKING:
    from pathlib import Path

JOB = "[jobs.j]\nmodel = 'llama3-8b'\nset.model = {num_layers = 1}\n"
COMMANDS = {
    "plan": ["plan", "j"],
    "check": ["check", "--no-cache"],
    "snapshot": ["snapshot", "accept", "--no-cache"],
    "diff": ["diff", "j", "plan.json"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_long_plan_is_announced(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clora-inspect.toml").write_text(JOB)
    if command == "diff":
        assert main(["plan", "j", "-o", "plan.json", "-q"]) == 0
    main(COMMANDS[command])
    assert "Ctrl-C ends it" not in capsys.readouterr().err
    monkeypatch.setattr("clora_inspect.pipeline.SLOW", 0)
    # Another job, because `diff` takes the plan of the first one from the cache.
    (tmp_path / "clora-inspect.toml").write_text(JOB.replace("= 1", "= 2"))
    main(COMMANDS[command])
    notices = [line for line in capsys.readouterr().err.splitlines() if "Ctrl-C ends it" in line]
    assert len(notices) == 1
    assert "llama3-8b is large: planning it takes about 2 seconds." in notices[0]
