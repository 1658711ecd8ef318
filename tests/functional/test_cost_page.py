"""The commands of docs/cost.md run, and print the lines that the page shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import CommandLine

PAGE = (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")
EXAMPLES = [block.splitlines() for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize(
    ("command", "shown"), [(first, rest) for first, *rest in EXAMPLES], ids=lambda each: str(each)[:30]
)
def test_a_command_prints_what_the_page_shows(clora_inspect: CommandLine, command: str, shown: list[str]) -> None:
    words = shlex.split(command.removeprefix("$ clora-inspect "))
    ran = clora_inspect(*words)
    assert ran.status == 0, ran.err
    assert shown
    for line in shown:
        assert line in ran.out


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2
