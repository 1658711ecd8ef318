"""Worlds: the sources of the ranks that run a proof.

A world is this process alone (`SingleProcess`), N local processes (`LocalProcesses`), or the ranks
that torchrun or srun has started (`LaunchedRanks`). In all three every rank calls
`on_this_rank.prove` with megatron-core's process groups in place.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from clora.errors import DeviceError
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.ranks.launch import Launch, launched
from clora_inspect.verify.ranks.on_this_rank import prove
from clora_inspect.verify.task import ProofTask, RankAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed import Store  # type: ignore[attr-defined]

    from clora_inspect.job.job import Device
    from clora_inspect.job.layout import Layout
    from clora_inspect.virtual.processes import Processes

TIMEOUT_S = 180.0
"""Longest wait of one rank for the others, in seconds."""


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
def open_world(procs: int, device: Device) -> Iterator[World]:
    """Provide the ranks to prove on.

    Args:
        procs: local processes to start; 1 for this process alone. Under a launcher its own ranks
            are used instead.
        device: `cpu`, or `cuda` for real GPUs.

    Raises:
        DeviceError: `procs` beside a launcher's ranks, or `cuda` with several `procs`: on GPUs
            torchrun starts the processes.
    """
    if (launch := launched()) is not None:
        if procs not in (1, launch.ranks):
            raise DeviceError(
                f"--procs {procs}: {launch.ranks} ranks were launched already, and verify uses those. "
                "Leave out --procs."
            )
        yield LaunchedRanks(launch, device)
    elif procs == 1:
        yield SingleProcess(device)
    elif device == "cuda":
        raise DeviceError(
            f"--procs {procs} starts processes on the CPU. For GPUs: torchrun --nproc-per-node {procs} "
            "-m clora_inspect verify ..."
        )
    else:
        from clora_inspect.virtual.processes import Processes

        with Processes(procs, timeout_s=TIMEOUT_S) as processes:
            yield LocalProcesses(processes, procs)


class SingleProcess:
    """This process is the only rank."""

    ranks = 1
    is_first = True

    def __init__(self, device: Device) -> None:
        self._device = device

    def ask(self, task: ProofTask, proof: str) -> list[RankAnswer]:
        with quiet(), one_rank(task.layout, self._device):
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

    def __init__(self, launch: Launch, device: Device) -> None:
        self._launch = launch
        self._device = device
        self._groups_made = 0
        self.ranks = launch.ranks
        self.is_first = launch.is_first

    def ask(self, task: ProofTask, proof: str) -> list[RankAnswer]:
        """Run the proof here, as every rank does, and exchange the answers."""
        from torch import distributed

        self._groups_made += 1
        with quiet(), launched_rank(task.layout, self._launch, self._device, self._groups_made):
            answers: list[Any] = [None] * self.ranks
            distributed.all_gather_object(answers, msgspec.json.encode(prove(task, proof)))
        return [msgspec.json.decode(each, type=RankAnswer) for each in answers]


@contextmanager
def one_rank(layout: Layout, device: Device) -> Iterator[None]:
    """Make a real process group of this process alone, so that collective operations work."""
    from clora_inspect.virtual import megatron_on
    from clora_inspect.virtual.processes import gloo_cluster

    with ExitStack() as stack:
        # The stand-ins (or the real modules) come first, because the rest imports megatron-core.
        stack.enter_context(megatron_on(device))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="clora-verify-", ignore_cleanup_errors=True))
        rendezvous = Path(folder) / "rendezvous"
        if device == "cuda":
            from torch.distributed import FileStore  # type: ignore[attr-defined]

            stack.enter_context(_cluster("nccl", layout, 0, 1, FileStore(str(rendezvous), 1)))
        else:
            stack.enter_context(gloo_cluster(layout, 0, 1, rendezvous=rendezvous))
        yield


@contextmanager
def launched_rank(layout: Layout, launch: Launch, device: Device, number: int) -> Iterator[None]:
    """Make the `number`th process group of the launched ranks: NCCL on GPUs, gloo otherwise."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    from clora_inspect.virtual import megatron_on

    if device == "cuda":
        import torch

        torch.cuda.set_device(launch.local_rank)
    elif os.environ.get("LOCAL_WORLD_SIZE") == str(launch.ranks) and sys.platform == "linux":
        # By default gloo resolves the host's name, which many laptops cannot. Here all ranks are on
        # this host, and the loopback interface is enough.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with megatron_on(device):
        # Each group has a prefix of its own; else it would find the addresses of the group before.
        store = PrefixStore(f"world{number}", launch.store())
        with _cluster("nccl" if device == "cuda" else "gloo", layout, launch.rank, launch.ranks, store):
            yield


@contextmanager
def _cluster(backend: str, layout: Layout, rank: int, ranks: int, store: Store) -> Iterator[None]:
    from datetime import timedelta

    from torch import distributed

    from clora_inspect.virtual.model_parallel import model_parallel

    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=TIMEOUT_S)
    )
    try:
        with model_parallel(layout):
            yield
    finally:
        distributed.destroy_process_group()
