"""Worlds: the sources of the ranks that run a proof.

A world is this process alone (`SingleProcess`), N local processes (`LocalProcesses`), or the ranks
that torchrun or srun has started (`LaunchedRanks`). In all three every rank calls
`on_this_rank.prove` with megatron-core's process groups in place.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from clora.errors import CloraError, DeviceError
from clora_inspect.machine.faults import RankLostError, machine_fault, time_limit
from clora_inspect.machine.quiet import quiet
from clora_inspect.machine.temporary import delete_abandoned, temporary_folder
from clora_inspect.verify.outcome import BrokenOffError
from clora_inspect.verify.ranks.launch import Launch, check_master, launched
from clora_inspect.verify.ranks.on_this_rank import prove
from clora_inspect.verify.request import TIMEOUT_S
from clora_inspect.verify.task import ProofTask, RankAnswer, answer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed import Store  # type: ignore[attr-defined]

    from clora_inspect.job.job import Device
    from clora_inspect.job.layout import Layout
    from clora_inspect.virtual.processes import Processes

GRACE_S = 5.0
"""Seconds after the time limit in which a launched rank says itself what it waited for."""


class World(Protocol):
    """Ranks that run proofs, wherever they come from."""

    @property
    def ranks(self) -> int:
        """Number of ranks, this process included."""

    @property
    def is_first(self) -> bool:
        """True if this process reports for all ranks."""

    def ask(self, task: ProofTask, proof: str) -> list[RankAnswer]:
        """Run one proof on all ranks; return their answers in rank order."""


@contextmanager
def open_world(procs: int, device: Device, timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """Provide the ranks to prove on.

    Args:
        procs: local processes to start; 1 for this process alone. Under a launcher its own ranks
            are used instead.
        device: `cpu`, or `cuda` for real GPUs.
        timeout_s: longest time of one proof, in seconds.

    Raises:
        LaunchError: the environment of a launcher is malformed.
        DeviceError: `procs` beside a launcher's ranks, or `cuda` with several `procs`: on GPUs
            torchrun starts the processes.
    """
    delete_abandoned()
    if (launch := launched()) is not None:
        if procs not in (1, launch.ranks):
            raise DeviceError(
                f"--procs {procs}: {launch.ranks} ranks were launched already, and verify uses those. "
                "Leave out --procs."
            )
        # Checked here, so that a wrong address is reported before the job is planned.
        check_master()
        yield LaunchedRanks(launch, device, timeout_s)
    elif procs == 1:
        yield SingleProcess(device, timeout_s)
    elif device == "cuda":
        raise DeviceError(
            f"--procs {procs} starts processes on the CPU. For GPUs: torchrun --nproc-per-node {procs} "
            "-m clora_inspect verify ..."
        )
    else:
        from clora_inspect.virtual.processes import Processes

        with Processes(procs, timeout_s=timeout_s) as processes:
            yield LocalProcesses(processes, procs)


class SingleProcess:
    """This process is the only rank."""

    ranks = 1
    is_first = True

    def __init__(self, device: Device, timeout_s: float = TIMEOUT_S) -> None:
        self._device = device
        self._timeout_s = timeout_s

    def ask(self, task: ProofTask, proof: str) -> list[RankAnswer]:
        with time_limit(self._timeout_s), quiet(), one_rank(task.layout, self._device, exact_fp32=_is_exact(task)):
            return [prove(task, proof)]


class LocalProcesses:
    """Processes on this machine's CPU, which communicate through gloo."""

    is_first = True

    def __init__(self, processes: Processes, ranks: int) -> None:
        self._processes = processes
        self.ranks = ranks

    def ask(self, task: ProofTask, proof: str) -> list[RankAnswer]:
        answers = self._processes.run(
            "clora_inspect.verify.ranks.on_this_rank:prove_json", task.layout, msgspec.json.encode(task), proof
        )
        return [msgspec.json.decode(each, type=RankAnswer) for each in answers]


class LaunchedRanks:
    """The ranks that a launcher started; this process is one of them, and all run this program."""

    def __init__(self, launch: Launch, device: Device, timeout_s: float = TIMEOUT_S) -> None:
        self._launch = launch
        self._device = device
        self._timeout_s = timeout_s
        self._groups_made = 0
        self.ranks = launch.ranks
        self.is_first = launch.is_first

    def ask(self, task: ProofTask, proof: str) -> list[RankAnswer]:
        """Run the proof here, as every rank does, and exchange the answers."""
        from torch import distributed

        self._groups_made += 1
        answers: list[Any] = [None] * self.ranks
        limit = self._timeout_s
        try:
            # The ranks' own waits end first, and say more.
            with (
                time_limit(limit + GRACE_S),
                quiet(),
                launched_rank(
                    task.layout, self._launch, self._device, self._groups_made, limit, exact_fp32=_is_exact(task)
                ),
            ):
                try:
                    own = prove(task, proof)
                except BrokenOffError as error:
                    own = answer_of(error)
                distributed.all_gather_object(answers, msgspec.json.encode(own))
        except CloraError:
            raise
        except Exception as error:
            if (fault := machine_fault(error)) is None:
                raise
            rank = self._launch.rank
            raise RankLostError(f"Rank {rank} of {self.ranks} could not go on in {proof}: {fault}.") from error
        return [msgspec.json.decode(each, type=RankAnswer) for each in answers]


def _is_exact(task: ProofTask) -> bool:
    return bool(task.definition.config.get("params_dtype") == "float32")


@contextmanager
def one_rank(layout: Layout, device: Device, *, exact_fp32: bool = False) -> Iterator[None]:
    """Make a real process group of this process alone, so that collective operations work."""
    from clora_inspect.virtual import megatron_on
    from clora_inspect.virtual.processes import gloo_cluster
    from clora_inspect.virtual.reproducible import reproducible_kernels

    with ExitStack() as stack:
        # The stand-ins (or the real modules) come first, because the rest imports megatron-core.
        stack.enter_context(megatron_on(device))
        rendezvous = stack.enter_context(temporary_folder("verify")) / "rendezvous"
        if device == "cuda":
            from torch.distributed import FileStore  # type: ignore[attr-defined]

            stack.enter_context(reproducible_kernels(exact_fp32=exact_fp32))
            stack.enter_context(_cluster("nccl", layout, 0, 1, FileStore(str(rendezvous), 1)))
        else:
            stack.enter_context(gloo_cluster(layout, 0, 1, rendezvous=rendezvous))
        yield


@contextmanager
def launched_rank(
    layout: Layout,
    launch: Launch,
    device: Device,
    number: int,
    timeout_s: float = TIMEOUT_S,
    *,
    exact_fp32: bool = False,
) -> Iterator[None]:
    """Make the `number`th process group of the launched ranks: NCCL on GPUs, gloo otherwise."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    from clora_inspect.virtual import megatron_on
    from clora_inspect.virtual.reproducible import reproducible_kernels

    if device == "cuda":
        import torch

        torch.cuda.set_device(launch.local_rank)
    elif os.environ.get("LOCAL_WORLD_SIZE") == str(launch.ranks) and sys.platform == "linux":
        # By default gloo resolves the host's name, which many laptops cannot. Here all ranks are on
        # this host, and the loopback interface is enough.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    kernels = reproducible_kernels(exact_fp32=exact_fp32) if device == "cuda" else nullcontext()
    with megatron_on(device), kernels:
        # Each group has a prefix of its own; else it would find the addresses of the group before.
        store = PrefixStore(f"world{number}", launch.store(timeout_s))
        with _cluster("nccl" if device == "cuda" else "gloo", layout, launch.rank, launch.ranks, store, timeout_s):
            yield


@contextmanager
def _cluster(
    backend: str, layout: Layout, rank: int, ranks: int, store: Store, timeout_s: float = TIMEOUT_S
) -> Iterator[None]:
    from datetime import timedelta

    from torch import distributed

    from clora_inspect.virtual.model_parallel import model_parallel

    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout_s)
    )
    try:
        with model_parallel(layout):
            yield
    finally:
        distributed.destroy_process_group()
