"""Standard files that are closed, full or interrupted; characters that a reader cannot see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine, bare_environment

from clora_inspect.cli import main
from clora_inspect.exit_code import ExitCode
from clora_inspect.formats.glyphs import harmless, harmless_json

COMMANDS = ("--help", "explain CL101", "plan {plan}", "plan {plan} -f json", "graph {plan} -f dot", "info -f json")


def in_shell(redirection: str, words: str, plan: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clora_inspect", *words.format(plan=plan).split()]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=bare_environment(),
    )


@pytest.mark.parametrize("words", COMMANDS)
def test_a_closed_stdout_discards_what_is_printed(saved_plan: Path, words: str) -> None:
    ran = in_shell(">&- <&-", words, saved_plan)
    assert (ran.returncode, ran.stdout, ran.stderr) == (ExitCode.OK, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_disk_is_no_mistake_of_the_user(saved_plan: Path, words: str) -> None:
    ran = in_shell(">/dev/full", words, saved_plan)
    assert ran.returncode == ExitCode.BUILD
    assert ran.stderr.startswith("error: ")
    assert "No space left on device" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_nothing_is_open_and_a_mistake_still_has_its_exit_status(saved_plan: Path) -> None:
    assert in_shell(">&- 2>&- <&-", "plan {plan} --tp 3", saved_plan).returncode == ExitCode.USAGE


def test_no_file_gets_what_is_printed_to_a_closed_stdout(saved_plan: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    assert in_shell(">&-", f"plan {{plan}} -f json -q -o {copy}", saved_plan).returncode == ExitCode.OK
    assert copy.read_text() == saved_plan.read_text()


def test_ctrl_c_before_the_command_began(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted(_arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("clora_inspect.cli._main", interrupted)
    assert main(["plan", "llama3-8b"]) == ExitCode.INTERRUPT
    assert capfd.readouterr().err == "interrupted\n"


HIDDEN = [chr(code) for code in (0x9B, 0xAD, 0x61C, 0x200B, 0x200F, 0x202E, 0x2066, 0xFEFF, 0xE0041)]


@pytest.mark.parametrize("character", HIDDEN, ids=lambda character: f"U+{ord(character):04X}")
def test_hidden_characters_are_shown_as_text_and_escaped_as_json(character: str) -> None:
    name = f"linear{character}_q"
    assert harmless(name) == "linear\ufffd_q"
    text = json.dumps({"name": name, "plain": "é → 中"}, ensure_ascii=False)
    assert character not in harmless_json(text)
    assert "é → 中" in harmless_json(text)
    assert json.loads(harmless_json(text)) == json.loads(text)


@pytest.mark.parametrize("form", ["json", "jsonl", "sarif"])
def test_no_json_output_holds_them(clora_inspect: CommandLine, form: str) -> None:
    words = ("check", "qwen2.5-0.5b", "--set", "model.num_layers=1", "--no-snapshot", "--no-progress")
    ran = clora_inspect(*words, "--target-modules", "linear_q\u202e\u200b", "-f", form)
    assert ran.status == ExitCode.FOUND
    assert "\u202e" not in ran.out
    assert "\\u202e" in ran.out or "\ufffd" in ran.out
