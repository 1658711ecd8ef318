"""`clora-inspect gate FILE -- COMMAND`: start a run, and require that its ranks pass the gate."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.display import display_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
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
        code = _run(command, environment)
        if not answer.exists():
            narrate(
                f"error: the gate was never reached: {command[0]} ended with exit status {code}, and no rank called "
                "clora_inspect.gate(model). Call it after surgery and before the first step."
            )
            return ExitCode.FOUND
    raise SystemExit(code)


def _file_and_command(
    file: str | None, command: tuple[str, ...], record: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """Tell the file from the command, and drop the `--` between them."""
    words = (*(word for word in (file,) if word is not None), *command)
    if "--" in words[:2]:
        separator = words.index("--")
        file, command = next(iter(words[:separator]), None), words[separator + 1 :]
    elif record is not None and file is not None and not Path(file).is_file():
        # click drops a `--` in front of all arguments.
        file, command = None, words
    if file is None and record is None:
        raise click.UsageError("name a file to compare with, or --record DIR: clora-inspect gate FILE -- COMMAND")
    if not command:
        asked = file or f"--record {record}"
        raise click.UsageError(f"name the command that starts the run: clora-inspect gate {asked} -- COMMAND")
    return file, command


def _check(file: str) -> None:
    """Refuse a file that no rank could read, before a run waits in a queue for it."""
    from clora_inspect.launch.expected import read_expected

    read_expected(Path(file))


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run `command` to its end and return its exit status, 128 + N if signal N ended it."""
    try:
        # The user typed the command. It gets Ctrl-C from the terminal itself.
        process = subprocess.Popen(command, env=environment)  # noqa: S603
    except OSError as error:
        raise click.UsageError(f"{command[0]} cannot be started: {error.strerror or error}") from None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: process.send_signal(received))
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue
    return 128 - code if code < 0 else code
