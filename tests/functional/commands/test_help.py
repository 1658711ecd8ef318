"""`--help` has no markup, keeps examples on lines of their own and names every option."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from clora_inspect.cli.options.base import Option
from clora_inspect.cli.root import root
from clora_inspect.cli.table import COMMANDS


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_shows_no_markup(words: list[str]) -> None:
    answer = CliRunner().invoke(root, [*words, "--help"])
    assert answer.exit_code == 0
    assert "\\b" not in answer.output
    assert "\b" not in answer.output


def test_examples_stand_on_lines_of_their_own() -> None:
    answer = CliRunner().invoke(root, ["plan", "--help"])
    assert "\n  clora-inspect plan llama3-8b --tp 4 --pp 2\n" in answer.output


def _commands() -> dict[str, click.Command]:
    """Return every command by its words, such as "snapshot accept"."""
    found: dict[str, click.Command] = {"": root}
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
    return found


@pytest.mark.parametrize(("words", "command"), [pytest.param(w, c, id=w or "alone") for w, c in _commands().items()])
def test_help_names_every_option(words: str, command: click.Command) -> None:
    answer = CliRunner().invoke(root, [*words.split(), "--help"])
    listed = re.findall(r"^  (-.*?)(?:  |$)", answer.output, flags=re.MULTILINE)
    named = {flag for line in listed for flag in re.findall(r"-[-\w]+", line)}
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    assert {flag for each in options for flag in (*each.opts, *each.secondary_opts)} <= named


def test_an_option_under_no_known_heading_is_refused() -> None:
    with pytest.raises(ValueError, match="heading 'Serch'"):
        Option(["--gpus"], group="Serch")
