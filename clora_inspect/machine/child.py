"""Run a command of the user's to its end, hand it the signals that this process gets, and leave
nothing of it behind when it was told to end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that end a command. Not every system has all of them."""


class Ended(NamedTuple):
    """The end of a command."""

    status: int
    """Its exit status, 128 + N if signal N ended it."""
    told_by: int | None
    """The first signal that this process got meanwhile; None if it got none."""


def run_to_end(command: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Run `command` to its end.

    Raises:
        OSError: it cannot be started.
    """
    # In the foreground the terminal sends Ctrl-C to the whole group, the command included.
    # Elsewhere nobody does, so the command gets a group of its own that can be told as a whole.
    shares_group = sys.platform == "win32" or _is_in_foreground()
    process = subprocess.Popen(command, env=environment, process_group=None if shares_group else 0)  # noqa: S603
    told: list[int] = []

    def tell(number: int) -> None:
        was_told = bool(told)
        told.append(number)
        if not shares_group:
            _tell_group(process.pid, number)
        # The terminal has told it of the first Ctrl-C. A second one may come from elsewhere.
        elif number != signal.SIGINT or was_told:
            process.send_signal(number)

    with _handled(tell):
        status = process.wait()
        if told and not shares_group:
            # A child of it that ignores the signal would live on.
            _tell_group(process.pid, signal.SIGTERM)
    return Ended(128 - status if status < 0 else status, told[0] if told else None)


@contextmanager
def _handled(tell: Callable[[int], None]) -> Iterator[None]:
    """Call `tell` with every signal that would end this process."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda received, _frame: tell(received)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _is_in_foreground() -> bool:
    """Return whether Ctrl-C in a terminal reaches this process."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
