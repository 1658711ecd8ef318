"""Keep what upstream libraries print off the terminal while a model is built, and keep it for
whoever asks.

Importing megatron-core raises a score of warnings, torch logs through handlers of its own, and
compiled code writes straight to the file descriptors. `quiet()` collects all three and leaves
everything as it found it.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

NOISY_LOGGERS = ("torch", "megatron", "transformer_engine", "apex")
"""The loggers (with everything below them) whose records are collected."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something that upstream said, once or several times."""

    origin: str
    """A warning's category, a logger's name, or `output` for what was written to stdout or stderr."""
    text: str
    count: int = 1


@dataclass
class Noise:
    """What was said inside `quiet()`. Complete when the block has ended, also when it ended in an
    exception.
    """

    warnings: list[tuple[str, str]] = field(default_factory=list)
    records: list[tuple[str, str]] = field(default_factory=list)
    output: list[tuple[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> tuple[Message, ...]:
        """Every distinct message with how often it was said, in the order of first appearance."""
        # A library that puts a handler of its own on its logger has each record written to stderr a
        # second time, decorated.
        logged = tuple(text for _, text in self.records)
        output = [said for said in self.output if not said[1].endswith(logged)] if logged else self.output
        counts = Counter([*self.warnings, *self.records, *output])
        return tuple(Message(origin, text, count) for (origin, text), count in counts.items())


_active: ContextVar[Noise | None] = ContextVar("active_noise", default=None)


@contextmanager
def quiet() -> Iterator[Noise]:
    """Collect warnings, log records of `NOISY_LOGGERS` and everything written to stdout or stderr,
    by Python or by C code.

    Blocks nest: an inner one collects into the outer one's `Noise`, so whoever is outermost decides
    what becomes of it. Standard output is the process's: what *other* threads write meanwhile is
    collected too.
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


@contextmanager
def _warnings_collected(collected: list[tuple[str, str]]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            collected += [(warning.category.__name__, str(warning.message).strip()) for warning in caught]


class _ListHandler(logging.Handler):
    """Appends records to a list."""

    def __init__(self, collected: list[tuple[str, str]]) -> None:
        super().__init__()
        self._collected = collected

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's text; a malformed record is kept as it stands."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = f"{record.msg} {record.args}"
        self._collected.append((record.name, text.strip()))


@contextmanager
def _records_collected(collected: list[tuple[str, str]]) -> Iterator[None]:
    """Handlers that libraries put on their own loggers meanwhile stay; on the root logger, which is
    the user's, they go.
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
                    stack.enter_context(_descriptor_diverted(descriptor, sink.fileno()))
                stack.enter_context(_streams_diverted(sink))
                yield
        finally:
            sink.seek(0)
            lines = sink.read().decode("utf-8", errors="backslashreplace").splitlines()
            collected += [("output", line.strip()) for line in lines if line.strip()]


@contextmanager
def _descriptor_diverted(descriptor: int, sink: int) -> Iterator[None]:
    """Let `descriptor` lead to `sink`. One that is closed (a daemon's) stays closed."""
    try:
        saved = os.dup(descriptor)
    except OSError:
        yield
        return
    # What is buffered now was written before the block and belongs to the outside.
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

        # C's stdio has buffers of its own; None is the process itself, and fflush(NULL) means all
        # streams.
        ctypes.CDLL(None).fflush(None)


@contextmanager
def _streams_diverted(sink: IO[bytes]) -> Iterator[None]:
    """Divert `sys.stdout` and `sys.stderr` as well: under pytest or in a notebook they do not lead
    to the descriptors.
    """
    stdout, stderr = sys.stdout, sys.stderr
    diverted = _Diverted(stdout, sink), _Diverted(stderr, sink)
    sys.stdout, sys.stderr = diverted
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for stream in diverted:
            stream.give_back()


class _Diverted(io.TextIOBase):
    """Stands for a text stream. Whoever keeps it (a log handler made meanwhile) reaches the real
    stream after the block.
    """

    def __init__(self, stream: TextIO | None, sink: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._sink: IO[bytes] | None = sink

    def give_back(self) -> None:
        """From now on, write to the real stream."""
        self._sink = None

    def write(self, text: str) -> int:
        """Write to the collection, or to the real stream once the block has ended."""
        if self._sink is not None:
            self._sink.write(text.encode("utf-8", errors="backslashreplace"))
            self._sink.flush()
        elif self._stream is not None:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the real stream."""
        if self._sink is None and self._stream is not None:
            self._stream.flush()

    def writable(self) -> Literal[True]:
        """A stream to write to."""
        return True

    def isatty(self) -> bool:
        """Whether the real stream is a terminal: never while diverted, so that nobody draws
        progress bars.
        """
        return self._sink is None and self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The real stream's descriptor, which is diverted as well."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What text is encoded as."""
        return "utf-8"
