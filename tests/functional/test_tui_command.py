"""`clora-inspect tui` from the command line, without a terminal: pictures, and what it refuses."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

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


def test_without_a_terminal_it_says_what_to_do(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("tui", "llama3-8b")
    assert (ran.status, ran.out) == (ExitCode.USAGE, "")
    assert "--screenshot FILE.svg" in ran.err
