"""Run command lines of clora-inspect in child processes. Plans and proofs are made this way, so the
interface never imports torch, and a long command can be stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import tempfile
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING

import msgspec

from clora.errors import CloraError
from clora_inspect.tui.job.command_lines import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LONGEST_MESSAGE = 4_000
"""Bytes of the end of a command's stderr that are kept."""

ENDING = "The interface is being closed."
"""The error of a command that is asked for, or still runs, while the interface ends."""

CHUNK = 1 << 16
"""Bytes that are read at once. The plan of a large model is tens of megabytes long."""


class CommandError(CloraError):
    """A command ended without a result; the message is its error from stderr."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Exit status of the command; None if it never ran."""


class ChildCommand:
    """One command line that runs, or has run, in a child process."""

    def __init__(self, process: asyncio.subprocess.Process, stdout: asyncio.StreamReader, stderr: IO[bytes]) -> None:
        self._process = process
        self._stdout = stdout
        self._stderr = stderr
        self._last_line: bytes | None = None
        """The beginning of the line with the exit status, which follows the output; None before it
        has come.
        """
        self.status: int | None = None
        """The exit status; None while the command runs."""

    async def output(self) -> bytes:
        """Wait for the end of the command and return what it printed on stdout."""
        chunks = []
        while chunk := await self._read():
            chunks.append(chunk)
        return b"".join(chunks)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines that the command prints on stdout, each as soon as it is printed."""
        rest = b""
        while chunk := await self._read():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    async def _read(self) -> bytes:
        """Return a piece of stdout; nothing at the end, when `status` is known."""
        if self.status is None and self._last_line is None:
            # `child_process` writes a NUL and the exit status after the output.
            chunk, end, rest = (await self._stdout.read(CHUNK)).partition(b"\0")
            if end:
                # Kept, because more of the line may come later, and waiting can be cancelled.
                self._last_line = rest
            elif not chunk:
                self.status = await self._process.wait()
            if chunk:
                return chunk
        if self.status is None and self._last_line is not None:
            if not self._last_line.endswith(b"\n"):
                self._last_line += await self._stdout.readline()
            self.status = int(self._last_line)
        return b""

    @property
    def message(self) -> str:
        """The command's error on stderr, without the output of the user's model before it."""
        if self._stderr.closed:
            return ENDING
        self._stderr.seek(0)
        text = self._stderr.read()[-LONGEST_MESSAGE:].decode(errors="replace").strip()
        error = re.search(r"^(internal )?error: ", text, re.MULTILINE)
        return text[error.start() :].removeprefix("error: ") if error else text


class ChildProcesses:
    """Runs command lines, one at a time.

    A process that has imported torch and megatron-core waits for the next command line, see
    `child_process`. It is started with the first one.
    """

    def __init__(self, program: Sequence[str] = (sys.executable, "-m", "clora_inspect.tui.job.child_process")) -> None:
        """Prepare to run `program`, which reads command lines from stdin; start nothing yet."""
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        # A file and not a pipe: nobody reads stderr while a command runs, and a full pipe would
        # block the child.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._one_at_a_time = asyncio.Lock()
        self._stopped: ChildCommand | None = None
        """A command that was told to end, and whose last output was not read yet."""
        self._has_answered = False

    @property
    def is_warm(self) -> bool:
        """True if the next command starts at once, because torch and megatron-core are imported."""
        return self._has_answered and self._process is not None and self._process.returncode is None

    async def output(self, words: Sequence[str]) -> bytes:
        """Run one command line and return what it prints on stdout.

        Raises:
            CommandError: it printed nothing.
        """
        async with self.run(words) as command:
            data = await command.output()
            if not data:
                said = command.message or f"'{words[0]}' ended with exit status {command.status}."
                raise CommandError(said, command.status)
            return data

    @asynccontextmanager
    async def run(self, words: Sequence[str]) -> AsyncIterator[ChildCommand]:
        """Run one command line. A command that has not ended with the block is killed."""
        async with self._one_at_a_time:
            await self._wait_for_stopped()
            command = await self._start()
            self._stopped = command
            self._send(msgspec.json.encode(words))
            try:
                yield command
            finally:
                if command.status is None:
                    # Anything on stdin ends a running command, and an empty line starts none.
                    self._send(b"")
                else:
                    self._stopped = None
                    self._has_answered = True

    async def _wait_for_stopped(self) -> None:
        """Read the rest of a killed command's output, which would stand before the next one's."""
        if self._stopped is not None:
            await self._stopped.output()
            self._stopped = None

    async def _start(self) -> ChildCommand:
        if self._stderr.closed:
            raise CommandError(ENDING)
        # A process that runs already writes through the same open file: it goes on at the start.
        self._stderr.seek(0)
        self._stderr.truncate()
        if self._process is None or self._process.returncode is not None:
            self._has_answered = False
            self._process = await asyncio.create_subprocess_exec(
                *self._program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._stderr,
                # JSON is UTF-8, whatever the user's terminal is.
                env={**environment(), "PYTHONIOENCODING": "utf-8"},
            )
        if self._process.stdout is None:
            raise CommandError("the child process has no stdout: this is a mistake of clora-inspect.")
        return ChildCommand(self._process, self._process.stdout, self._stderr)

    def _send(self, line: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line + b"\n")

    async def close(self) -> None:
        """End all processes and wait for them."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            if process.stdin is not None:
                # A command that runs sees the end of its stdin, and ends.
                process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            if process.stdout is not None:
                # asyncio reports the end of a process when its pipes have ended, and stops reading
                # a pipe that nobody takes anything from. If a command still reads it, it cannot be
                # read here, and need not be.
                with contextlib.suppress(RuntimeError):
                    await process.stdout.read()
            await process.wait()
        self._stderr.close()
