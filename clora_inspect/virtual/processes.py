"""Run functions on all ranks of a small cluster: one process per rank, megatron-core on the CPU,
gloo between them.

In `virtual_cluster.py` one process plays one rank, and collectives move no data. Here all ranks
exist and collectives move data, so values can be compared between them.

The parent process sends each rank a `_Request`, and the arguments as a second message. It gets back
a `_Reply`, and as a second message the result, if there is one. The function is named
("package.module:function") and imported in each process, so it is never pickled.
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
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from clora.errors import CloraError, LayoutError
from clora.folders.regular_file import read_end
from clora.folders.socket_folder import keep_socket_paths_short
from clora_inspect.job.layout import Layout
from clora_inspect.machine.faults import RankLostError, machine_fault_of
from clora_inspect.machine.temporary import temporary_folder
from clora_inspect.virtual.model_parallel import model_parallel
from clora_inspect.virtual.releases import naming_the_release
from clora_inspect.virtual.world import current_device, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

TIMEOUT_S = 120.0
"""Time limit of one task in seconds. The first task's time includes the start of the processes."""

GRACE_S = 5.0
"""Seconds that the other ranks get once one has failed. Most fail as well, and their errors help;
but some may wait for the failed rank in a collective, and would wait until the time limit.
"""

MAX_THREADS = 250
"""Threads of a rank above which all ranks are replaced by new processes before the next task.

Each gloo group keeps threads that wake a hundred times a second, for as long as anything refers to
the group. A task of a user's code may keep such groups for good; ours are freed after each task.
"""

EXIT_S = 2.0
"""Seconds that a rank gets to end by itself before it is killed."""

STACK_S = 0.3
"""Seconds that a rank that hangs gets to write its stack to its log."""

LOG_TAIL = 30
"""Number of last lines of a rank's log that an error quotes. A stack has room in them."""

LONGEST_TAIL = 64 * 1024
"""Bytes at the end of a rank's log that are looked at: its output may have gigabytes."""


class RankError(RuntimeError):
    """A task raised an exception that is no `CloraError` on at least one rank.

    The message has the first rank's; the notes have the traceback of every rank that failed.
    """


class _Request(msgspec.Struct, frozen=True):
    """One task for all ranks."""

    task: str
    layout: Layout
    number: int
    """Number of the task in these processes; it makes the name of the rendezvous file unique."""


class _Reply(msgspec.Struct, frozen=True):
    """The outcome of one rank. All fields are empty if the task succeeded."""

    error: str = ""
    error_class: str = ""
    """Full name of the exception's class."""
    traceback_text: str = ""
    """Empty if the process died."""


@contextmanager
def gloo_cluster(
    layout: Layout, rank: int, ranks: int, *, rendezvous: Path, timeout_s: float = TIMEOUT_S
) -> Iterator[None]:
    """Be rank `rank` of `ranks` processes that all call this function at the same time.

    Args:
        layout: sizes of the mesh axes.
        rank: this process's global rank.
        ranks: number of processes, a multiple of `layout.model_world`. The quotient is the
            data-parallel size.
        rendezvous: path of the file by which the processes find each other. It must be the same in
            all of them, and the file must not exist yet.
        timeout_s: seconds that a collective waits for the other ranks.

    Raises:
        WorldError: no virtual world is entered.
        LayoutError: `ranks` is not a multiple of `layout.model_world`.
    """
    current_device()  # raises if no world is entered
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
    """`count` processes on the CPU that run one task after another.

    Each task runs in a new gloo cluster, but in the same processes: starting them costs seconds.
    After a failed task they are in an unknown state, so the next task gets new ones.

    Use as a context manager, or call `close()`.
    """

    def __init__(self, count: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self.count = count
        self._timeout_s = timeout_s
        self._cleanup = ExitStack()
        self._folder = self._cleanup.enter_context(temporary_folder("ranks"))
        self._ranks: list[tuple[BaseProcess, Connection]] = []
        self._number = 0

    def run(self, task: str, layout: Layout, *args: Any, timeout_s: float | None = None) -> list[Any]:
        """Call `task(*args)` on all ranks, inside `virtual_megatron("cpu")` and the cluster of
        `layout`.

        Args:
            task: "package.module:function", importable in a new process with this process's
                `sys.path`.
            layout: sizes of the mesh axes; `layout.model_world` must divide `count`.
            args: arguments of the function. They and its result may be tensors, numbers, strings
                and containers of these.
            timeout_s: time limit of this task in seconds, instead of the one given to the
                constructor.

        Returns:
            The results of all ranks, in rank order.

        Raises:
            CloraError: the task raised this error (or a subclass).
            LayoutError: `layout.model_world` does not divide `count`.
            RankLostError: a rank died, did not answer in time, or had no memory.
            RankError: the task raised another exception.
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
        replies, results = self._collect(timeout_s or self._timeout_s)
        failed = [rank for rank in range(self.count) if rank not in replies or replies[rank].error_class]
        if failed:
            # A rank that has died closes its pipe a moment before the system has its exit status.
            time.sleep(STACK_S)
            ends = self._ends(replies, failed, timeout_s or self._timeout_s)
            self._dump_stacks([rank for rank in failed if self._ranks[rank][0].is_alive() and rank not in replies])
            self._stop()
            raise self._failure(task, layout, replies, ends)
        if any(_thread_count(process.pid) > MAX_THREADS for process, _ in self._ranks):
            self._stop()
        return [results[rank] for rank in range(self.count)]

    def close(self) -> None:
        """End the processes and delete their logs."""
        self._stop()
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _log(self, rank: int) -> Path:
        return self._folder / f"rank{rank}.log"

    def _start(self) -> None:
        keep_socket_paths_short(self._folder)
        context = _process_context()
        for rank in range(self.count):
            parent_end, rank_end = context.Pipe()
            # Not a daemon: a daemon may start no processes, and megatron-core starts some to write
            # checkpoints.
            process = context.Process(
                target=_serve, args=(rank, self.count, str(self._folder), self._timeout_s, rank_end, dict(os.environ))
            )
            process.start()
            # The rank must hold the only copy: otherwise its death does not close the pipe.
            rank_end.close()
            self._ranks.append((process, parent_end))

    def _stop(self) -> None:
        for _, connection in self._ranks:
            connection.close()
        for process, _ in self._ranks:
            # A rank that waits for a request sees the closed pipe, ends its own children and exits.
            # A rank that hangs in a task has to be killed.
            process.join(EXIT_S)
            _kill_with_children(process)
            process.join()
            process.close()
        self._ranks = []

    def _collect(self, timeout_s: float) -> tuple[dict[int, _Reply], dict[int, Any]]:
        """Return the replies and results by rank that come within `timeout_s` seconds, or within
        `GRACE_S` seconds after a rank failed. A rank that did not answer is in neither.
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
                    # The process died.
                    replies.pop(rank, None)
                end = min(end, time.monotonic() + GRACE_S)
        return replies, results

    def _dump_stacks(self, ranks: list[int]) -> None:
        """Make these ranks, which hang, write the stacks of their threads to their logs."""
        if not ranks or sys.platform == "win32":
            return
        for rank in ranks:
            pid = self._ranks[rank][0].pid
            if pid is not None:
                os.kill(pid, signal.SIGUSR1)
        time.sleep(STACK_S)

    def _failure(self, task: str, layout: Layout, replies: dict[int, _Reply], ends: dict[int, str]) -> Exception:
        """Return the exception to raise.

        Args:
            task: the task.
            layout: its layout.
            replies: what the ranks replied that did not die.
            ends: for each rank that failed, how it ended: died, hangs, or raised.
        """
        raised = [(rank, replies[rank]) for rank in ends if rank in replies]
        for _, reply in raised:
            if (clora_error := _clora_error(reply)) is not None:
                return clora_error
        of_code = [(rank, each) for rank, each in raised if _fault(each) is None]
        error: Exception
        # Ranks that lose another one raise as well, so a rank that was lost is the cause.
        if len(of_code) < len(ends) and all(_fault(each) for _, each in raised):
            # When one has died the others wait for it, or find their connections closed.
            silent = [rank for rank in ends if rank not in replies]
            rank = next((rank for rank in silent if ends[rank].startswith("died")), (silent or list(ends))[0])
            error = RankLostError(f"Rank {rank} of {self.count} {ends[rank]}.")
        else:
            rank, reply = of_code[0]
            error = RankError(
                f"{task} failed on {len(ends)} of {self.count} ranks of {layout.label}. "
                f"rank {rank}: {reply.error_class}: {reply.error}"
            )
        for rank, end in ends.items():
            text = replies[rank].traceback_text if rank in replies else "\n".join(self._log_tail(rank))
            error.add_note(f"\nrank {rank} {end}:\n{text}")
        return error

    def _ends(self, replies: dict[int, _Reply], failed: list[int], timeout_s: float) -> dict[int, str]:
        """Return for each rank that failed how it ended. A rank that hangs is still there."""
        ends: dict[int, str] = {}
        for rank in failed:
            code = self._ranks[rank][0].exitcode
            if rank in replies:
                fault = _fault(replies[rank])
                ends[rank] = "raised" if fault is None else f"could not go on: {fault}"
            elif code is None:
                ends[rank] = f"did not answer in time ({timeout_s:g} s, see --timeout)"
            else:
                ends[rank] = f"died ({_ended_by(code)}); with too little memory the system kills processes"
        return ends

    def _log_tail(self, rank: int) -> list[str]:
        try:
            lines = read_end(self._log(rank), LONGEST_TAIL).decode(errors="replace").splitlines()
        except OSError:
            lines = []
        return [f"  {line}" for line in lines[-LOG_TAIL:]] or ["  (nothing)"]


def _process_context() -> Any:
    """Return the `multiprocessing` context in which ranks are started.

    Forking this process would copy the locks of torch's threads in whatever state they are, without
    the threads. The fork server is a process of its own with one thread, which has imported what
    all ranks need (`preload.py`). Windows has none, so there each rank imports for itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clora_inspect.virtual.preload"])
    return context


def _fault(reply: _Reply) -> str | None:
    """Return what the machine did to a rank that replied; None when its code raised."""
    return machine_fault_of(reply.error_class, reply.error)


def _ended_by(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _clora_error(reply: _Reply) -> CloraError | None:
    """Return the error that a rank reports as an exception, or None if it is no `CloraError`."""
    module, _, name = reply.error_class.rpartition(".")
    # Looked up among the loaded modules, not imported: an error must not run code of a module that
    # this process does not use.
    error_class = getattr(sys.modules.get(module), name, None)
    if isinstance(error_class, type) and issubclass(error_class, CloraError):
        return error_class(reply.error)
    return None


def _serve(
    rank: int, ranks: int, folder: str, timeout_s: float, connection: Connection, environment: dict[str, str]
) -> None:
    """Run one rank: answer requests until the parent process closes the pipe."""
    _set_up(Path(folder) / f"rank{rank}.log", environment)
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
                with (
                    naming_the_release(),
                    gloo_cluster(request.layout, rank, ranks, rendezvous=rendezvous, timeout_s=timeout_s),
                ):
                    result = _packed(_imported(request.task)(*args))
                reply = _Reply()
            except Exception as error:  # noqa: BLE001 - a task may raise anything; the parent decides
                error_class = f"{type(error).__module__}.{type(error).__qualname__}"
                reply = _Reply(str(error), error_class, traceback.format_exc())
            connection.send_bytes(msgspec.json.encode(reply))
            if result is not None:
                connection.send_bytes(result)
            _forget_models()


def _kill_with_children(process: BaseProcess) -> None:
    """Kill a rank, and what would outlive it: megatron-core's checkpoint writer starts a manager
    process, which waits for its rank for ever.
    """
    import psutil

    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _forget_models() -> None:
    """Free the models of the last task, and with them its gloo groups and their threads."""
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core.models.common.embeddings."):
            for embedding in vars(module).values():
                # `RotaryEmbedding.forward` has an lru_cache of the modules that it was called on.
                if cache_clear := getattr(getattr(embedding, "forward", None), "cache_clear", None):
                    cache_clear()
    # Models refer to process groups in cycles, which only the collector finds.
    gc.collect()


def _set_up(log: Path, environment: dict[str, str]) -> None:
    """Prepare the process of a rank: its environment, its temporary folder, its log, and torch's
    threads.
    """
    # A forked rank has the environment that the fork server had when it started, not the parent's.
    os.environ.clear()
    os.environ.update(environment)
    # Inside the parent's folder, which is deleted also when this process is killed.
    os.environ["TMPDIR"] = tempfile.tempdir = str(log.parent)
    log_file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    # Redirect the file descriptors: gloo and other C++ code write to these, not to sys.stderr.
    os.dup2(log_file, 1)
    os.dup2(log_file, 2)
    faulthandler.enable()
    # On SIGUSR1 write all stacks to stderr, which is the log. Windows has no such signal.
    if sys.platform != "win32":
        faulthandler.register(signal.SIGUSR1)
    if sys.platform == "linux":
        # gloo resolves the host's name to choose an interface, which fails on many laptops. All
        # ranks are on this host, so the loopback interface will do.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch

    # Tensors are small and cores are few: more threads per rank would only compete.
    torch.set_num_threads(1)


def _thread_count(pid: int | None) -> int:
    """Return the number of threads of a process; 0 on systems without /proc."""
    tasks = Path(f"/proc/{pid}/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


def _imported(task: str) -> Any:
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
