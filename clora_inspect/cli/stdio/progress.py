"""Show a line on stderr that says what is being done. Only a terminal gets it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora_inspect.formats.glyphs import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clora_inspect.cli.stdio.display import Display

DELAY = 0.3
"""Seconds before the line appears. A command that is faster shows none."""

_FRAMES = "|/-\\"


@contextmanager
def progress(display: Display, *, wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """Yield a function that sets the text of the line. The line is erased when the block ends."""
    if not wanted or display.quiet or not _is_terminal():
        yield lambda _: None
        return
    line = _Line()
    # A daemon, so that a command that is killed does not wait for it.
    thread = threading.Thread(target=line.run, daemon=True)
    thread.start()
    try:
        yield line.show
    finally:
        line.stop()
        thread.join()


class _Line:
    """The line, which a thread redraws so that its first character turns."""

    def __init__(self) -> None:
        self._text = ""
        self._ended = threading.Event()
        # A second file descriptor of the terminal: while models are built, `quiet` redirects the
        # process's own stderr into a file.
        self._terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace")

    def show(self, text: str) -> None:
        self._text = text

    def run(self) -> None:
        began = time.monotonic()
        frame = 0
        while not self._ended.wait(0.1):
            if time.monotonic() - began > DELAY and self._text:
                self._write(f"\r\x1b[2K{_FRAMES[frame % len(_FRAMES)]} {harmless(self._text)}")
                frame += 1
        # Nothing to erase when the command ended within the delay.
        if frame:
            self._write("\r\x1b[2K")
        self._terminal.close()

    def stop(self) -> None:
        self._ended.set()

    def _write(self, text: str) -> None:
        try:
            self._terminal.write(text)
            self._terminal.flush()
        except OSError:
            # The terminal was closed. The command itself goes on.
            self._ended.set()


def _is_terminal() -> bool:
    stream = sys.stderr
    # A dumb terminal, such as a shell in Emacs, cannot erase the line.
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
