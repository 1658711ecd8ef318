"""`clora-inspect gate FILE -- COMMAND`: start a run, and require that its ranks pass the gate."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.display import display_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clora_inspect.launch.answer import Answer
    from clora_inspect.machine.child import Ended


_SEPARATOR = "\0--"
"""Stands for the first `--`, which click drops where it ends the options."""


class _GateCommand(Command):
    """A command that knows where the command that it starts begins."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse `args` with a word for the first `--` that click keeps."""
        if "--" in args:
            separator = args.index("--")
            if self._has_no_command(args[:separator]):
                ctx.allow_interspersed_args = True
                args.insert(separator + 1, _SEPARATOR)
            else:
                args[separator] = _SEPARATOR
        return super().parse_args(ctx, args)

    def _has_no_command(self, words: list[str]) -> bool:
        """Return whether the words are FILE and our options, in any order."""
        context = click.Context(self, ignore_unknown_options=True, allow_interspersed_args=True)
        try:
            values, _, _ = self.make_parser(context).parse_args(list(words))
        except click.UsageError:
            return False
        # Not all releases of click have the same value for none.
        command = values.get("command")
        return not (isinstance(command, tuple) and command)


@click.command(cls=_GateCommand, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--record",
    cls=Option,
    metavar="DIR",
    help="Write what the run is to DIR/clora-run.json when it passes.",
)
@display_options
@click.argument("file", required=False)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def gate(*, record: str | None, file: str | None, command: tuple[str, ...]) -> ExitCode:
    r"""Start COMMAND, a run that calls clora_inspect.gate(model), and end it before its first step
    unless every rank holds what FILE says: a snapshot, the record of a run, or a saved plan.

    \b
    clora-inspect gate snapshots/llama3-8b/train.json -- torchrun --nproc-per-node 8 train.py
    clora-inspect gate --record checkpoints/run-7 -- srun python train.py

    Exits as COMMAND does; with 1 if the ranks differ, or if COMMAND ended and no rank had asked.
    """
    from clora_inspect.launch.answer import read_answer
    from clora_inspect.launch.settings import ANSWER_VARIABLE, FILE_VARIABLE, RECORD_VARIABLE
    from clora_inspect.machine.import_path import environment_outside
    from clora_inspect.machine.temporary import temporary_folder

    file, command = _file_and_command(file, command, record)
    environment = environment_outside()
    if file is not None:
        _check(file)
        environment[FILE_VARIABLE] = str(Path(file).resolve())
    if record is not None:
        environment[RECORD_VARIABLE] = str(Path(record).resolve())
    with temporary_folder("gate") as folder:
        answer = folder / "answer.json"
        environment[ANSWER_VARIABLE] = str(answer)
        ended = _ended(command, environment)
        status = _status(command, ended, read_answer(answer))
    raise SystemExit(status)


def _file_and_command(
    file: str | None, command: tuple[str, ...], record: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """Tell the file from the command, and drop the `--` between them."""
    words = (*(word for word in (file,) if word is not None), *command)
    if _SEPARATOR in words[:2]:
        separator = words.index(_SEPARATOR)
        file, command = next(iter(words[:separator]), None), words[separator + 1 :]
    elif record is not None and file is not None and not Path(file).is_file():
        file, command = None, words
    # A `--` further behind is the command's own.
    command = tuple("--" if word == _SEPARATOR else word for word in command)
    if file is None and record is None:
        raise click.UsageError("name a file to compare with, or --record DIR: clora-inspect gate FILE -- COMMAND")
    if command and command[0].startswith("-"):
        raise click.UsageError(f"'{command[0]}' is no command. Write -- before it: clora-inspect gate FILE -- COMMAND")
    if not command:
        asked = file or f"--record {record}"
        raise click.UsageError(f"name the command that starts the run: clora-inspect gate {asked} -- COMMAND")
    return file, command


def _check(file: str) -> None:
    """Refuse a file that no rank could read, before a run waits in a queue for it."""
    from clora_inspect.launch.expected import read_expected

    read_expected(Path(file))


def _ended(command: Sequence[str], environment: Mapping[str, str]) -> Ended:
    from clora_inspect.machine.child import run_to_end

    try:
        return run_to_end(command, environment)
    except OSError as error:
        raise click.UsageError(f"{command[0]} cannot be started: {error.strerror or error}") from None


def _status(command: Sequence[str], ended: Ended, answer: Answer | None) -> int:
    """Return the exit status of a run that has ended, and say what it does not say itself."""
    if answer is not None:
        # A script may swallow the exit status of its trainer.
        return ended.status if answer.passed else ended.status or ExitCode.FOUND
    if ended.told_by == signal.SIGINT:
        narrate(f"interrupted: {command[0]} ended with exit status {ended.status} before the gate was reached.")
        return ExitCode.INTERRUPT
    narrate(
        f"error: the gate was never reached: {command[0]} ended with exit status {ended.status}, and no rank called "
        "clora_inspect.gate(model). Call it after surgery and before the first step."
    )
    return ExitCode.FOUND
