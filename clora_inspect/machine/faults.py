"""Tell what this machine did to a rank (memory, threads, the network, a time limit) from mistakes
in the code that ran on it, and say it in one sentence.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "can't start new thread",
    "failed to map segment",
    "bad_alloc",
    "resource temporarily unavailable",
)
"""Parts of messages, in lower case, of Python, torch, glibc and CUDA where memory is short."""

NETWORK = (
    "gloo",
    "nccl",
    "connection closed by peer",
    "connection reset by peer",
    "connect() timed out",
    "socket",
    "eaddrinuse",
    "broken pipe",
)
"""Parts of messages, in lower case, of torch where another rank cannot be reached."""


class RankLostError(DeviceError):
    """A rank died, did not answer in time, cannot be reached, or had no memory."""


def is_of_machine(error: BaseException) -> bool:
    """Return whether the machine is to blame, and no code."""
    return machine_fault(error) is not None


def machine_fault(error: BaseException) -> str | None:
    """Return a few words for what the machine did; None when it is not to blame."""
    return machine_fault_of(type(error).__name__, str(error), getattr(error, "errno", None))


def machine_fault_of(class_name: str, message: str, number: int | None = None) -> str | None:
    """Return a few words for what the machine did, from an exception's class and message."""
    text = message.lower()
    if class_name.endswith("MemoryError") or number in (errno.ENOMEM, errno.EAGAIN):
        return "there is not enough memory"
    if any(part in text for part in OUT_OF_MEMORY):
        return "there is not enough memory, or no thread can be started"
    if class_name.rpartition(".")[2].startswith("Dist") or any(part in text for part in NETWORK):
        return f"the ranks cannot talk to each other ({first_sentence(message)})"
    return None


def first_sentence(message: str) -> str:
    """Return the beginning of a message of torch, whose rest is a stack of C++ functions."""
    line = message.strip().splitlines()[0] if message.strip() else "no message"
    return line[:200].rstrip(" .")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End what runs inside after `seconds`. Outside of the main thread, and on Windows, nothing
    limits the time.

    Raises:
        RankLostError: it took longer.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ended(_number: int, _frame: FrameType | None) -> None:
        raise RankLostError(f"The proof took longer than {seconds:g} s. Allow more with --timeout SECONDS.")

    before = signal.signal(signal.SIGALRM, ended)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
