"""Report a command's error: one line on stderr and an exit code, and the traceback if asked for."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clora.errors import described
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode, exit_code_for
from clora_inspect.machine.failed_import import failed_import
from clora_inspect.machine.faults import is_of_machine, machine_fault
from clora_inspect.machine.missing_package import missing_package

if TYPE_CHECKING:
    from clora_inspect.cli.stdio.display import Display


LONGEST_LINE = 1_200
"""Characters. The longest message that quotes no input has about 600."""


_OF_THE_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Numbers of the errors of a full disk, a quota, a broken device, and of too many open files."""


_LIBRARY = re.compile(r"[\w.+-]+\.so\b[\d.]*")
"""The file of a native library in the message of an ImportError, such as libtorch_cpu.so."""


def report_failure(error: BaseException, display: Display, stdout: object) -> int:
    """Print `error` on stderr and return the exit status.

    Args:
        error: what ended the command.
        display: whether the traceback is wanted.
        stdout: what `sys.stdout` was when the command began, see `_status_of_exit`.
    """
    if isinstance(error, SystemExit) and failed_import(error) is None:
        return _status_of_exit(error, stdout)
    if isinstance(error, BrokenPipeError):
        return discard_stdout()
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        narrate("interrupted")
        return ExitCode.INTERRUPT
    if display.traceback:
        narrate("".join(traceback.format_exception(error)).rstrip())
    for line in _lines(error):
        narrate(_readable(line))
    if _is_of_the_machine(error):
        # click's `--help` wrote it to stdout. Python would try again when it ends.
        discard_stdout()
        return ExitCode.BUILD
    return status_of(error)


def status_of(error: BaseException) -> int:
    """Return the exit status of a command that `error` ended, or kept from a part of its work."""
    if _is_of_the_machine(error.__cause__):
        return ExitCode.BUILD
    # Another OSError mostly comes from a path that the user named.
    return ExitCode.USAGE if isinstance(error, (click.ClickException, OSError)) else exit_code_for(error)


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Return whether the machine lacks something, and not whether the user named a wrong path."""
    if isinstance(error, OSError):
        return error.errno in _OF_THE_MACHINE
    return error is not None and _lack(error) is not None


def _lack(error: BaseException) -> str | None:
    """Return in one sentence what the machine lacks; None where `error` has another reason."""
    if isinstance(error, ImportError) and (library := _LIBRARY.search(str(error))):
        if is_of_machine(error):
            return f"{library[0]} cannot be loaded: there is not enough memory."
        return f"A library that is installed here cannot be loaded: {error}. Install the package of it again."
    if (missing := missing_package(error)) is not None:
        return missing
    # torch has no class of its own for what the system refuses it.
    if isinstance(error, (MemoryError, RuntimeError)) and (fault := machine_fault(error)) is not None:
        return fault
    return failed_import(error) if exit_code_for(error) is ExitCode.INTERNAL else None


def discard_stdout() -> int:
    """Discard the rest of stdout because its reader has gone, as in `clora-inspect ... | head`.

    Without this, Python would print an error of its own when it flushes stdout at the end.

    Returns:
        OK: the command itself did not fail.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    if null != 1:
        os.close(null)
    return ExitCode.OK


def _status_of_exit(error: SystemExit, stdout: object) -> int:
    # click ends the process itself after it has printed completions, and when the reader of stdout
    # goes away while it prints `--help`. Only in the second case does it replace `sys.stdout`.
    if sys.stdout is not stdout:
        return discard_stdout()
    return error.code if isinstance(error.code, int) else ExitCode.OK


def _readable(text: str) -> str:
    """Cut the middle out of lines that quote an input of thousands of characters."""
    return "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 250]} ... {line[-200:]}"
        for line in text.split("\n")
    )


def _lines(error: BaseException) -> list[str]:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # Its message is the help of the command; without any words there is no mistake to name.
        return [error.format_message()]
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "clora-inspect"
        return [f"error: {error.format_message()}", f"  see: {command} --help"]
    if isinstance(error, click.ClickException):
        return [f"error: {error.format_message()}"]
    if isinstance(error, OSError):
        return [f"error: {_of_system(error)}"]
    lack = _lack(error)
    if lack or exit_code_for(error) is not ExitCode.INTERNAL:
        return [f"error: {lack or error}"]
    return [
        f"internal error: {described(error)}",
        "  This is a bug in clora-inspect. Please report it with the output of clora-inspect info,",
        "  and with that of this command with --traceback.",
    ]


def _of_system(error: OSError) -> str:
    """Return what the system refused, and for which file."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder was deleted. Go to another one, or name it: clora-inspect -C DIR ..."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
