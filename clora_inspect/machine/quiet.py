"""Keep the output of upstream libraries off the terminal while a model is built.

Importing megatron-core raises a score of warnings, torch logs through handlers of its own, and
compiled code writes straight to the file descriptors. `quiet()` collects all three, and leaves the
process as it was.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

NOISY_LOGGERS = ("torch", "megatron", "transformer_engine", "apex")
"""Loggers whose records are collected, with those of all loggers below them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One distinct message of an upstream library."""

    origin: str
    """Category of a warning, name of a logger, or `output` for lines on stdout or stderr."""
    text: str
    count: int = 1


@dataclass
class Noise:
    """Pairs of origin and text that `quiet()` collected.

    They are complete when its block has ended, even by an exception.
    """

    warnings: list[tuple[str, str]] = field(default_factory=list)
    records: list[tuple[str, str]] = field(default_factory=list)
    output: list[tuple[str, str]] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    """Lines that were printed in `printing_on_stderr`. They are written on stderr when the block
    has ended.
    """

    @property
    def messages(self) -> tuple[Message, ...]:
        """Every distinct message with its count, in the order of first appearance."""
        # A library that puts a handler of its own on its logger writes each record a second time,
        # to stderr and with a prefix.
        logged = tuple(text for _, text in self.records)
        output = [line for line in self.output if not line[1].endswith(logged)] if logged else self.output
        counts = Counter([*self.warnings, *self.records, *output])
        return tuple(Message(origin, text, count) for (origin, text), count in counts.items())


_active: ContextVar[Noise | None] = ContextVar("active_noise", default=None)


@contextmanager
def quiet() -> Iterator[Noise]:
    """Collect warnings, records of `NOISY_LOGGERS`, and what Python or C writes to the terminal.

    Blocks nest: an inner block yields the outer block's `Noise`. The standard streams belong to the
    process, so what other threads write meanwhile is collected too.
    """
    outer = _active.get()
    if outer is not None:
        yield outer
        return
    noise = Noise()
    token = _active.set(noise)
    try:
        with ExitStack() as stack:
            stack.enter_context(_output_collected(noise.output))
            stack.enter_context(_records_collected(noise.records))
            stack.enter_context(_warnings_collected(noise.warnings))
            yield noise
    finally:
        _active.reset(token)
        _write(noise.printed)


_written: set[str] = set()
"""Lines that were written already: a function is called again for each stage and each proof."""


@contextmanager
def printing_on_stderr() -> Iterator[None]:
    """Send what is printed inside to stderr, each different line once. Inside of `quiet()` it is
    written when that has ended.
    """
    noise, before = _active.get(), sys.stdout
    printed = _Printed(before)
    sys.stdout = printed
    try:
        yield
    finally:
        sys.stdout = before
        lines = [line for line in printed.text().splitlines() if line.strip()]
        if noise is None:
            _write(lines)
        else:
            noise.printed += lines


class _Printed(io.TextIOWrapper):
    """A stand-in for stdout that keeps what is written.

    A log handler that is made inside the block keeps it, and what it writes later is dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._kept = io.BytesIO()
        self._stream = stream
        super().__init__(self._kept, encoding="utf-8", errors="backslashreplace")

    def text(self) -> str:
        """Return what was written; nothing if the stream was closed."""
        if self.closed:
            return ""
        self.flush()
        return self._kept.getvalue().decode("utf-8", errors="backslashreplace")

    def fileno(self) -> int:
        """Return the descriptor of the real stream, for child processes."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()


def _write(lines: list[str]) -> None:
    new = [line for line in dict.fromkeys(lines) if line not in _written]
    _written.update(new)
    stream = sys.stderr
    if not new or stream is None:
        return
    encoding = stream.encoding or "utf-8"
    text = "".join(f"{line}\n" for line in new)
    with suppress(OSError, ValueError):
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


@contextmanager
def _warnings_collected(collected: list[tuple[str, str]]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        # Python's own filters drop repeated warnings, and `Message.count` would be wrong.
        warnings.simplefilter("always")
        try:
            yield
        finally:
            collected += [(warning.category.__name__, str(warning.message).strip()) for warning in caught]


class _ListHandler(logging.Handler):
    """Append records to a list."""

    def __init__(self, collected: list[tuple[str, str]]) -> None:
        super().__init__()
        self._collected = collected

    def emit(self, record: logging.LogRecord) -> None:
        """Append the logger's name and the text."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            # The arguments do not fit the format. logging itself would print a traceback.
            text = f"{record.msg} {record.args}"
        self._collected.append((record.name, text.strip()))


@contextmanager
def _records_collected(collected: list[tuple[str, str]]) -> Iterator[None]:
    """Collect the records of `NOISY_LOGGERS`.

    Handlers that libraries add to their own loggers inside the block stay. On the root logger,
    which belongs to the user, they are removed.
    """
    handler = _ListHandler(collected)
    before = {name: (logging.getLogger(name).propagate, logging.getLogger(name).handlers[:]) for name in NOISY_LOGGERS}
    root_handlers = logging.root.handlers[:]
    for name in NOISY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    try:
        yield
    finally:
        for name, (propagate, handlers) in before.items():
            logger = logging.getLogger(name)
            added = [other for other in logger.handlers if other is not handler and other not in handlers]
            logger.handlers[:] = [*handlers, *added]
            logger.propagate = propagate
        logging.root.handlers[:] = root_handlers


@contextmanager
def _output_collected(collected: list[tuple[str, str]]) -> Iterator[None]:
    with tempfile.TemporaryFile() as sink:
        try:
            with ExitStack() as stack:
                for descriptor in (1, 2):
                    stack.enter_context(_descriptor_redirected(descriptor, sink.fileno()))
                stack.enter_context(_streams_redirected(sink))
                yield
        finally:
            sink.seek(0)
            lines = sink.read().decode("utf-8", errors="backslashreplace").splitlines()
            collected += [("output", line.strip()) for line in lines if line.strip()]


@contextmanager
def _descriptor_redirected(descriptor: int, sink: int) -> Iterator[None]:
    """Redirect `descriptor` to `sink`; one that is closed, as in a daemon, stays closed."""
    try:
        saved = os.dup(descriptor)
    except OSError:
        yield
        return
    # Text that is still buffered was written before the block, so it belongs on the terminal.
    _flush()
    os.dup2(sink, descriptor)
    try:
        yield
    finally:
        _flush()
        os.dup2(saved, descriptor)
        os.close(saved)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    if os.name == "posix":
        import ctypes

        # C's stdio has buffers of its own. None opens the process itself, and fflush(NULL) flushes
        # all of its streams.
        ctypes.CDLL(None).fflush(None)


@contextmanager
def _streams_redirected(sink: IO[bytes]) -> Iterator[None]:
    """Redirect `sys.stdout` and `sys.stderr`.

    Redirecting the descriptors is not enough: under pytest or in a notebook the streams do not
    write to them.
    """
    stdout, stderr = sys.stdout, sys.stderr
    stand_ins = _StandInStream(stdout, sink), _StandInStream(stderr, sink)
    sys.stdout, sys.stderr = stand_ins
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for stream in stand_ins:
            stream.give_back()


class _StandInStream(io.TextIOBase):
    """A stand-in for a text stream.

    A log handler that is made inside the block keeps it, and reaches the real stream afterwards.
    """

    def __init__(self, stream: TextIO | None, sink: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._sink: IO[bytes] | None = sink

    def give_back(self) -> None:
        """Write to the real stream from now on."""
        self._sink = None

    def write(self, text: str) -> int:
        """Write to the sink, or to the real stream once the block has ended."""
        if self._sink is not None:
            self._sink.write(text.encode("utf-8", errors="backslashreplace"))
            self._sink.flush()
        elif self._stream is not None:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the real stream; the sink is flushed by every write."""
        if self._sink is None and self._stream is not None:
            self._stream.flush()

    def writable(self) -> Literal[True]:
        return True

    def isatty(self) -> bool:
        """Return whether the real stream is a terminal; False inside the block."""
        # Libraries draw progress bars on terminals.
        return self._sink is None and self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the real stream, which is redirected as well."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"
