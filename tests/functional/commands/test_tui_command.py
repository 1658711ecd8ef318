"""`clora-inspect tui` from the command line, without a terminal: pictures, and what it refuses."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

import pytest

from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine


def _shown(picture: Path) -> str:
    return html.unescape(" ".join(re.findall(r">([^<]+)</text>", picture.read_text()))).replace(
        "\N{NO-BREAK SPACE}", " "
    )


def test_a_picture_keeps_to_ascii_and_to_one_colour_where_that_is_asked(
    clora_inspect: CommandLine, saved_plan: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.svg"
    ran = clora_inspect("tui", str(saved_plan), "--ascii", "--color", "never", "--screenshot", str(picture))
    assert (ran.status, ran.out) == (ExitCode.OK, "")
    assert "linear_qkv" in _shown(picture)
    assert _shown(picture).isascii()
    colours = set(re.findall(r"-r\d+ \{ fill: (#\w+)", picture.read_text()))
    assert len(colours) <= 2, "the text colour, and the background under it where it is reversed"
    ran = clora_inspect("tui", str(saved_plan), "--screenshot", str(picture))
    assert not _shown(picture).isascii()
    assert len(set(re.findall(r"-r\d+ \{ fill: (#\w+)", picture.read_text()))) > 3


def test_options_change_a_configured_job_and_no_saved_plan(
    clora_inspect: CommandLine, saved_plan: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.svg"
    refused = clora_inspect("tui", str(saved_plan), "--dim", "8", "--screenshot", str(picture))
    assert (refused.status, refused.out) == (ExitCode.USAGE, "")
    assert "is a saved plan" in refused.err
    (tmp_path / "clora-inspect.toml").write_text(
        '[jobs.small]\nmodel = "qwen2.5-0.5b"\nset.model = { num_layers = 2 }\nlayouts = { a = { tp = 2 }, b = { pp = 2 } }\n'
    )
    ran = clora_inspect("-C", str(tmp_path), "tui", "small/b", "--tp", "2", "--dim", "8", "--screenshot", str(picture))
    assert ran.status == ExitCode.OK, ran.err
    assert "b: tp2 pp2 sp" in _shown(picture)
    words = ("-C", str(tmp_path), "tui", "small/b", "--seq-length", "64", "--gpu-memory-gib", "0.1", "--keys", "2")
    ran = clora_inspect(*words, "--screenshot", str(picture))
    assert ran.status == ExitCode.OK, ran.err
    assert "shaded by peak memory of 102.4 MiB a GPU" in _shown(picture)
    assert "CL805" in _shown(picture)
    refused = clora_inspect("tui", str(saved_plan), "--gpu-memory-gib", "8", "--screenshot", str(picture))
    assert (refused.status, refused.out) == (ExitCode.USAGE, "")


def test_without_a_terminal_it_says_what_to_do(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("tui", "llama3-8b")
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert "--screenshot FILE.svg" in ran.err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("llama3-8b --screenshot a.png", ExitCode.USAGE, "FILE.svg"),
        ("llama3-8b --screenshot picture", ExitCode.USAGE, "FILE.svg"),
        ("llama3-8b --screenshot a.svg --keys nosuchkey", ExitCode.USAGE, "there is no key 'nosuchkey'"),
        ("llama3-8b --screenshot a.svg --keys down,entr", ExitCode.USAGE, "Did you mean enter"),
        ("llama3-8b --screenshot a.svg --keys crtl+p", ExitCode.USAGE, "there is no key 'crtl+p'"),
        ("missing.py:f --screenshot a.svg", ExitCode.USAGE, "missing.py"),
        ("models.py:build --screenshot a.svg", ExitCode.BUILD, "no weights here"),
        ("llama3-8b --tp 3 --screenshot a.svg", ExitCode.USAGE, "tp = 3"),
        ("damaged.json --screenshot a.svg", ExitCode.USAGE, "damaged.json"),
    ],
)
def test_no_picture_is_made_of_a_mistake(
    clora_inspect: CommandLine, tmp_path: Path, words: str, status: ExitCode, said: str
) -> None:
    (tmp_path / "models.py").write_text("def build():\n    raise RuntimeError('no weights here')\n")
    (tmp_path / "damaged.json").write_text('{"schema": 1, "rank_classes": [{}]}')
    ran = clora_inspect("-C", str(tmp_path), "tui", *words.split())
    assert (ran.status, ran.out) == (status, ""), ran.err
    assert said in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("error: ") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "damaged.json",
        "models.py",
    ]


def test_every_key_of_the_interface_can_be_pressed() -> None:
    from clora_inspect.tui.screenshot import UnknownKeyError, refuse_unknown
    from clora_inspect.tui.widgets.actions import ACTIONS

    refuse_unknown(key for action in ACTIONS for key in action.keys.split(","))
    refuse_unknown(["text:linear fc1", "shift+tab", "ctrl+home", "f12", "é", "-", "pageup", "space"])
    for wrong in ("", "dwon", "ctrl+", "hello", "ctrl+entr"):
        with pytest.raises(UnknownKeyError):
            refuse_unknown([wrong])
