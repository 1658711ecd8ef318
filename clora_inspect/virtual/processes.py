"""A real cluster on this machine: one process per rank, megatron-core on the CPU, gloo between
them.

Where `cluster.py` plays one rank and hears nothing from the others, here every rank exists and
collectives move data. What a rank runs is named, not sent: `"package.module:function"`, imported in
every process.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from clora.errors import CloraError, LayoutError
from clora_inspect.job.layout import Layout
from clora_inspect.virtual.model_parallel import model_parallel
from clora_inspect.virtual.world import current_device, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

TIMEOUT_S = 120.0
"""How long one task may take, the start of the processes included."""

GRACE_S = 5.0
"""How long the other ranks have to answer once one has failed: they may wait for it in a
collective.
"""

MOST_THREADS = 250
"""Threads of a rank above which all ranks start anew. megatron-core's caches keep some gloo groups
of past tasks for good (its rotary embeddings remember the modules they were called on), and a
group's threads wake a hundred times a second.
"""

LEAVE_S = 2.0
"""How long a rank gets to end by itself."""

STACK_S = 0.3
"""How long a rank that hangs gets to write down its stack."""

LOG_TAIL = 30
"""Lines of a rank's own output that an error quotes, its stack included where it hung."""


class RankError(RuntimeError):
    """A task failed, or did not end in time, on at least one rank; the message says on which and
    shows where.
    """


class _Request(msgspec.Struct, frozen=True):
    """One task for every rank."""

    task: str
    layout: Layout
    number: int


class _Reply(msgspec.Struct, frozen=True):
    """How one rank fared: `error` is empty when it succeeded."""

    error: str = ""
    error_class: str = ""
    where: str = ""


@contextmanager
def gloo_cluster(
    layout: Layout, rank: int, ranks: int, *, rendezvous: Path, timeout_s: float = TIMEOUT_S
) -> Iterator[None]:
    """Be rank `rank` of `ranks` processes that all call this with the same `rendezvous`, a file
    that is not there yet.

    Args:
        layout: sizes of the mesh axes.
        rank: of this process.
        ranks: how many processes there are, a multiple of `layout.model_world`; what is over is
            data-parallel.
        rendezvous: where the processes find each other.
        timeout_s: how long a collective waits for the others.

    Raises:
        WorldError: outside `virtual_megatron`.
        LayoutError: the layout does not divide the number of processes.
    """
    current_device()
    _check_fits(layout, ranks)
    from torch import distributed

    store = distributed.FileStore(str(rendezvous), ranks)  # type: ignore[attr-defined]
    distributed.init_process_group(
        backend="gloo",
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        with model_parallel(layout):
            yield
    finally:
        distributed.destroy_process_group()


def _check_fits(layout: Layout, ranks: int) -> None:
    if ranks % layout.model_world:
        raise LayoutError(
            f"{layout.label} needs a multiple of {layout.model_world} processes and there are {ranks}. "
            f"Ask for {layout.model_world}."
        )


class Processes:
    """`count` processes on the CPU that run one task after another, each time as the ranks of a
    fresh gloo cluster.

    Use as a context manager, or call `close()`. After a failed task the processes are replaced at
    the next one.
    """

    def __init__(self, count: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self.count = count
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="clora-inspect-ranks-")
        self._ranks: list[tuple[BaseProcess, Connection]] = []
        self._number = 0

    def run(self, task: str, layout: Layout, *args: Any, timeout_s: float | None = None) -> list[Any]:
        """Call `task(*args)` on every rank, inside `virtual_megatron("cpu")` and the cluster of
        `layout`.

        Args:
            task: `"package.module:function"`, importable in a new process with this one's
                `sys.path`.
            layout: sizes of the mesh axes; `layout.model_world` divides `count`.
            args: of the function; tensors, numbers, strings and containers of them, and so is what
                it returns.
            timeout_s: instead of the processes' own.

        Returns:
            What each rank returned, in rank order.

        Raises:
            CloraError: the task raised it; the class is the task's.
            LayoutError: the layout does not divide the number of processes.
            RankError: the task raised anything else, or a rank died or did not answer in time.
        """
        _check_fits(layout, self.count)
        self._number += 1
        if not self._ranks:
            self._start()
        request = msgspec.json.encode(_Request(task, layout, self._number))
        sent = _packed(list(args))
        for _, connection in self._ranks:
            connection.send_bytes(request)
            connection.send_bytes(sent)
        replies, results = self._answers(timeout_s or self._timeout_s)
        failed = [rank for rank in range(self.count) if rank not in replies or replies[rank].error_class]
        if failed:
            self._ask_where([rank for rank in failed if rank not in replies])
            self._stop()
            raise self._failure(task, layout, replies, failed)
        if any(_threads(process.pid) > MOST_THREADS for process, _ in self._ranks):
            self._stop()
        return [results[rank] for rank in range(self.count)]

    def close(self) -> None:
        """End the processes and remove their files."""
        self._stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _log(self, rank: int) -> Path:
        return Path(self._folder.name) / f"rank{rank}.log"

    def _start(self) -> None:
        context = _process_context()
        for rank in range(self.count):
            ours, theirs = context.Pipe()
            # Not a daemon: those may have no children, and megatron-core saves checkpoints with
            # some.
            process = context.Process(
                target=_serve, args=(rank, self.count, self._folder.name, self._timeout_s, theirs, dict(os.environ))
            )
            process.start()
            theirs.close()
            self._ranks.append((process, ours))

    def _stop(self) -> None:
        for _, connection in self._ranks:
            connection.close()
        for process, _ in self._ranks:
            # A rank that waits for a task sees the closed pipe and ends its own children; one that
            # hangs does not.
            process.join(LEAVE_S)
            process.kill()
            process.join()
            process.close()
        self._ranks = []

    def _answers(self, timeout_s: float) -> tuple[dict[int, _Reply], dict[int, Any]]:
        """Collect the ranks' answers until all have come, time is up, or one failed and the others
        had their grace.
        """
        end = time.monotonic() + timeout_s
        pending = {connection: rank for rank, (_, connection) in enumerate(self._ranks)}
        replies: dict[int, _Reply] = {}
        results: dict[int, Any] = {}
        while pending and (left := end - time.monotonic()) > 0:
            for ready in wait(list(pending), left):
                rank = pending.pop(ready)  # type: ignore[call-overload]
                connection = self._ranks[rank][1]
                try:
                    replies[rank] = msgspec.json.decode(connection.recv_bytes(), type=_Reply)
                    if not replies[rank].error_class:
                        results[rank] = _unpacked(connection.recv_bytes())
                        continue
                except (EOFError, OSError):
                    replies[rank] = _Reply("the process died", "EOFError")
                end = min(end, time.monotonic() + GRACE_S)
        return replies, results

    def _ask_where(self, ranks: list[int]) -> None:
        """Have the ranks that hang write their stacks to their logs."""
        if not ranks or not hasattr(signal, "SIGUSR1"):
            return
        for rank in ranks:
            pid = self._ranks[rank][0].pid
            if pid is not None:
                os.kill(pid, signal.SIGUSR1)
        time.sleep(STACK_S)

    def _failure(self, task: str, layout: Layout, replies: dict[int, _Reply], failed: list[int]) -> Exception:
        """What to raise: the task's own `CloraError` as it was, everything else with each failed
        rank's story.
        """
        first = next((replies[rank] for rank in failed if rank in replies), None)
        if first is not None and (own := _clora_error(first)) is not None:
            return own
        lines = [f"{task} failed on {len(failed)} of {self.count} ranks of {layout.label}."]
        for rank in failed:
            reply = replies.get(rank)
            if reply is None:
                lines += ["", f"rank {rank} did not answer in time; its output ends with:", *self._tail(rank)]
            else:
                lines += [
                    "",
                    f"rank {rank}: {reply.error_class}: {reply.error}",
                    reply.where or "\n".join(self._tail(rank)),
                ]
        return RankError("\n".join(lines))

    def _tail(self, rank: int) -> list[str]:
        try:
            lines = self._log(rank).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        return [f"  {line}" for line in lines[-LOG_TAIL:]] or ["  (nothing)"]


def _process_context() -> Any:
    """Return the `multiprocessing` context in which ranks are started.

    Forking this process would copy torch's threads and locks in whatever state they are. The fork
    server is a process of its own that has one thread, and has imported what every rank needs.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clora_inspect.virtual.preload"])
    return context


def _clora_error(reply: _Reply) -> CloraError | None:
    """The user's mistake that a rank reports, of the class it had there."""
    module, _, name = reply.error_class.rpartition(".")
    loaded = sys.modules.get(module)
    kind = getattr(loaded, name, None)
    return kind(reply.error) if isinstance(kind, type) and issubclass(kind, CloraError) else None


def _serve(
    rank: int, ranks: int, folder: str, timeout_s: float, connection: Connection, environment: dict[str, str]
) -> None:
    """The life of one rank: answer requests until the other end closes."""
    # The fork server has the environment of the time when it was started.
    os.environ.clear()
    os.environ.update(environment)
    log = os.open(Path(folder) / f"rank{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)
    if sys.platform == "linux":
        # gloo asks for the host's name, which resolves to nothing on many a laptop; all ranks are
        # on this host.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch

    torch.set_num_threads(1)
    with virtual_megatron("cpu"):
        while True:
            try:
                request = msgspec.json.decode(connection.recv_bytes(), type=_Request)
                args = _unpacked(connection.recv_bytes())
            except EOFError:
                return
            result = None
            try:
                rendezvous = Path(folder) / f"rendezvous{request.number}"
                with gloo_cluster(request.layout, rank, ranks, rendezvous=rendezvous, timeout_s=timeout_s):
                    result = _packed(_function(request.task)(*args))
                reply = _Reply()
            except Exception as error:  # noqa: BLE001 - whatever a task raises is its result
                kind = type(error)
                reply = _Reply(str(error), f"{kind.__module__}.{kind.__qualname__}", traceback.format_exc())
            connection.send_bytes(msgspec.json.encode(reply))
            if result is not None:
                connection.send_bytes(result)
            # Models hold process groups in cycles, and every gloo group keeps threads that wake a
            # hundred times a second.
            gc.collect()


def _threads(pid: int | None) -> int:
    """Threads of a process; 0 where the system does not tell."""
    tasks = Path(f"/proc/{pid}/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


def _function(task: str) -> Any:
    module, _, name = task.partition(":")
    return getattr(importlib.import_module(module), name)


def _packed(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), weights_only=True)
