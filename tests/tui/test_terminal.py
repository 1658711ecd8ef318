"""End to end in a real terminal: tmux, the real command, the keys a person would press."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed: apt-get install tmux")

LONGEST_WAIT = 90.0
"""Seconds: the planner imports torch and megatron-core, on a machine that may be busy."""

ESCAPE_ALONE = 1.0
"""Seconds after Escape until the next key: bytes that arrive with it are another key (`ESC ]`
begins a command).
"""


class Terminal:
    """A tmux session of its own server, so that nobody else's is touched."""

    def __init__(self, socket: Path, size: tuple[int, int], command: list[str], folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        width, height = size
        start = [
            "new-session",
            "-d",
            "-x",
            str(width),
            "-y",
            str(height),
            "-c",
            str(folder),
            "env",
            "TERM=xterm-256color",
            *command,
        ]
        self._run(*start)

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout

    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        for key in keys:
            self._run("send-keys", key)
            if key == "Escape":
                time.sleep(ESCAPE_ALONE)

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", text)

    def wait_for(self, *words: str) -> str:
        """Return the screen as soon as all of `words` are on it."""
        until = time.monotonic() + LONGEST_WAIT
        shown = ""
        while time.monotonic() < until:
            shown = self.screen()
            if all(word in shown for word in words):
                return shown
            time.sleep(0.1)
        raise AssertionError(f"{words} did not appear:\n{shown}")

    def has_ended(self) -> bool:
        until = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < until:
            if subprocess.run([*self._tmux, "has-session"], capture_output=True, check=False, timeout=30).returncode:
                return True
            time.sleep(0.1)
        return False

    def end(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=30)


@pytest.fixture(params=[(80, 24), (140, 45)], ids=["80x24", "140x45"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    command = [
        sys.executable,
        "-c",
        "from clora_inspect.cli import main; raise SystemExit(main())",
        "tui",
        "llama3-8b",
        "--tp",
        "4",
        "--pp",
        "2",
    ]
    command += ["--target-modules", "linear_q,linear_k,linear_v,linear_proj,linear_fc1_gat,linear_fc1_up,linear_fc2"]
    made = Terminal(tmp_path / "tmux", request.param, command, tmp_path)
    yield made
    made.end()


def test_a_minute_of_an_engineer(terminal: Terminal) -> None:
    terminal.wait_for("192 adapters", "layers {0..31}", "1 error")
    # Find linear_fc1 and read why it is wrapped.
    terminal.press("/")
    terminal.type("linear_fc1")
    terminal.press("Enter")
    terminal.wait_for("96 modules")
    terminal.press("Enter")
    terminal.wait_for("chosen by target_modules[5]", "linear_fc1_up", "3584 × 32")
    # Switch the rank.
    terminal.press("Escape")
    terminal.wait_for("Findings")
    terminal.press("Escape", "]")
    terminal.wait_for("rank 0 of 8")
    terminal.press("0")
    terminal.wait_for("all 8 ranks")
    # Count the peak memory of each rank, and go on meanwhile. A narrow terminal shows it on a
    # screen of its own.
    terminal.press("m")
    terminal.wait_for("shaded by peak memory", "at the peak of one rank")
    terminal.press("Escape")
    terminal.wait_for("Findings")
    # Open the finding.
    terminal.press("n", "e")
    terminal.wait_for("CL101 unmatched-target", "linear_fc1_gate (32)")
    terminal.press("Escape")
    terminal.wait_for("Findings")
    # What if the typo were none?
    terminal.press("w")
    terminal.wait_for("Change a field")
    terminal.press("Down", "Down", "Down", "Down", "End")
    terminal.type("e")
    terminal.wait_for("job now", "192", "224")
    terminal.press("Escape")
    terminal.wait_for("Findings")
    terminal.press("q")
    assert terminal.has_ended()
