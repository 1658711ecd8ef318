"""What is being done, on stderr: only on a terminal, and only when it takes long enough to wonder."""

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

PATIENCE = 0.3
"""Seconds before anything is said."""

_FRAMES = "|/-\\"


@contextmanager
def progress(display: Display, *, wanted: bool = True) -> Iterator[Callable[[str], None]]:
    """A function that takes the words for what is being done; the line is gone when the block ends."""
    if not wanted or display.quiet or not _is_terminal():
        yield lambda _: None
        return
    line = _Line()
    thread = threading.Thread(target=line.run, daemon=True)
    thread.start()
    try:
        yield line.say
    finally:
        line.stop()
        thread.join()


class _Line:
    """One line that a thread keeps turning."""

    def __init__(self) -> None:
        self._words = ""
        self._ended = threading.Event()
        # While models are built the process's own stderr is captured: the terminal is kept under
        # another number.
        self._terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace")

    def say(self, words: str) -> None:
        self._words = words

    def run(self) -> None:
        began = time.monotonic()
        frame = 0
        while not self._ended.wait(0.1):
            if time.monotonic() - began > PATIENCE and self._words:
                self._write(f"\r\x1b[2K{_FRAMES[frame % len(_FRAMES)]} {harmless(self._words)}")
                frame += 1
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
            self._ended.set()


def _is_terminal() -> bool:
    stream = sys.stderr
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
