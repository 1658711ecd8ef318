"""An option that takes a number takes no NaN, and no infinity."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click
import pytest

from clora_inspect.cli.table import COMMANDS
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from command_line import CommandLine


def _options() -> Iterator[tuple[str, str]]:
    """Yield command and option, for every option with a range of real numbers."""
    for name, (module, _) in COMMANDS.items():
        command: click.Command = getattr(import_module(module), name.replace("-", "_"))
        for option in command.params:
            if isinstance(option.type, click.FloatRange):
                yield name, option.opts[0]


NUMBERS = sorted(_options())


def test_options_are_found() -> None:
    assert {("fit", "--gpu-memory-gib"), ("verify", "--timeout"), ("plan", "--imbalance")} <= {*NUMBERS}


@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_a_number_is_finite(clora_inspect: CommandLine, command: str, option: str) -> None:
    for number in ("nan", "inf", "-inf", "1e400"):
        # What stands before is the command's own argument; fit has to be told its GPUs.
        ran = clora_inspect(command, "llama3-8b", *(("--gpus", "8") if command == "fit" else ()), option, number)
        assert (ran.status, ran.out) == (ExitCode.USAGE, ""), ran.err
        assert f"Invalid value for '{option}'" in ran.err
