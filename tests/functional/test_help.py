"""The text of `--help`: it has no markup, and examples keep their own lines."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

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
