"""The planner's process seen from the interface: ask, wait without blocking, cancel. No torch here."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import CloraError

if TYPE_CHECKING:
    from clora_inspect.tui.job.plan_request import PlanRequest

LONGEST_ERROR = 4_000
"""Bytes of the child's stderr that are shown when it dies."""


class PlanningError(CloraError):
    """The job cannot be planned; the message is what a user is told."""


class Planner:
    """Plans jobs in a child process that is kept warm. One request at a time; a cancelled one ends
    the child.
    """

    def __init__(
        self, command: tuple[str, ...] = (sys.executable, "-m", "clora_inspect.tui.job.planner_process")
    ) -> None:
        """Start nothing yet."""
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._busy = asyncio.Lock()
        self._has_answered = False

    @property
    def is_warm(self) -> bool:
        """Whether the child has answered before and imports nothing any more."""
        return self._has_answered and self._process is not None and self._process.returncode is None

    async def plan(self, request: PlanRequest) -> bytes:
        """The plan's JSON.

        Raises:
            PlanningError: with what the planner said.
        """
        async with self._busy:
            try:
                return await self._ask(request)
            except asyncio.CancelledError:
                # Megatron cannot be interrupted in the middle of a model; its process can.
                self.close()
                raise

    async def _ask(self, request: PlanRequest) -> bytes:
        process = await self._started()
        if process.stdin is None or process.stdout is None:
            raise PlanningError("the planner has no pipes: this is a mistake of clora-inspect.")
        head: dict[str, Any] = {}
        body = b""
        try:
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            await process.stdin.drain()
            head = msgspec.json.decode(await process.stdout.readline() or b"{}")
            body = await process.stdout.readexactly(head.get("bytes", 0))
        except (BrokenPipeError, ConnectionResetError, asyncio.IncompleteReadError):
            head = {}
        if not head:
            said = self._last_words()
            self.close()
            raise PlanningError(f"the planner ended unexpectedly. {said}".strip())
        self._has_answered = True
        if head["kind"] == "plan":
            return body
        raise PlanningError(body.decode(errors="replace"))

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._has_answered = False
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._stderr,
            )
        return self._process

    def _last_words(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-LONGEST_ERROR:].decode(errors="replace").strip()

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def aclose(self) -> None:
        """End the child and wait for it."""
        process = self._process
        self.close()
        if process is not None:
            await process.wait()
        self._stderr.close()
