"""Clean up when the process is told to end, by SIGTERM or by the SIGHUP of a closed terminal."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class _ToldToEndError(BaseException):
    """Raised where the process was when the signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def cleaned_up_on_signals() -> Iterator[None]:
    """Leave the body when such a signal comes, so that its context managers clean up; then end the
    process by the signal. Signals that are handled already, or ignored (nohup), are left alone.
    """
    numbers = [] if sys.platform == "win32" else [signal.SIGTERM, signal.SIGHUP]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def told(number: int, _frame: FrameType | None) -> None:
        # A second signal ends the process at once.
        signal.signal(number, signal.SIG_DFL)
        raise _ToldToEndError(number)

    for number in numbers:
        signal.signal(number, told)
    try:
        yield
    except _ToldToEndError as end:
        signal.signal(end.number, signal.SIG_DFL)
        signal.raise_signal(end.number)
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
