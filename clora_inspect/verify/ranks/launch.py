"""Read from the environment whether torchrun or srun has started this process, as which rank, and
open the store through which the ranks find each other.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError
from clora_inspect.machine.faults import RankLostError
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

# All three must be set: the pods of a cluster often have the first two in their environment
# although nothing was launched in them.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Set in a job step. In a batch script outside of `srun` the second is missing.
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
MASTER = ("MASTER_ADDR", "MASTER_PORT")

GRACE_S = 2.0
"""Seconds after its time limit in which torch may report that nobody answered."""

MOST_RANKS = 1_000_000
LARGEST_PORT = 65_535
DIGITS = 12
"""Longest number that is read, in characters."""


class LaunchError(CloraError):
    """The variables of a launcher in the environment are malformed, or contradict each other."""


@dataclass(frozen=True, slots=True)
class Launch:
    """This process's place among the ranks that were launched together."""

    rank: int
    ranks: int
    local_rank: int
    """Number of this process, and of its GPU, on this machine."""

    @property
    def is_first(self) -> bool:
        """True if this rank reports for all of them."""
        return self.rank == 0

    def store(self, timeout_s: float) -> Store:
        """Return the store that all ranks share, the same one as long as the process lives.

        Args:
            timeout_s: seconds to wait for the other ranks.

        Raises:
            LaunchError: the environment does not say where the first rank is.
            RankLostError: the others are not there, or the port is taken.
        """
        found: Store = _store(self.rank, self.ranks, timeout_s)
        return found


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return this process's place according to its launcher; None when it was started by itself.

    Raises:
        LaunchError: a number is malformed, or they contradict each other.
    """
    # LOCAL_RANK is set by launchers alone, so the others must be there with it.
    if environment.get("LOCAL_RANK") and (missing := [name for name in TORCHRUN if not environment.get(name)]):
        raise LaunchError(
            f"LOCAL_RANK is set, as torchrun does, and {_listed(missing)} not. Start with torchrun, "
            "or unset LOCAL_RANK."
        )
    for names in (TORCHRUN, SRUN):
        if all(environment.get(name) for name in names):
            return _launch(names, environment)
    return None


def _launch(names: tuple[str, str, str], environment: Mapping[str, str]) -> Launch:
    rank, ranks, local = (_number(name, environment[name], MOST_RANKS) for name in names)
    if ranks < 1 or rank >= ranks:
        raise LaunchError(
            f"{names[0]} = {rank} and {names[1]} = {ranks}: ranks are numbered from 0, below their number."
        )
    if local >= ranks:
        raise LaunchError(f"{names[2]} = {local} and {names[1]} = {ranks}: it counts the ranks of one machine.")
    return Launch(rank, ranks, local)


def _number(name: str, text: str, largest: int) -> int:
    # Short, because int() refuses texts of thousands of digits with an error of its own.
    if text.isascii() and text.isdecimal() and len(text) <= DIGITS and int(text) <= largest:
        return int(text)
    shown = text if len(text) <= DIGITS else f"{text[:DIGITS]}..."
    raise LaunchError(f"{name} = {shown!r} in the environment must be a number from 0 to {largest}.")


def _listed(names: list[str]) -> str:
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'}"


def check_master() -> None:
    """Check the address of the first rank.

    Raises:
        LaunchError: it is missing or malformed.
    """
    missing = [name for name in MASTER if not os.environ.get(name)]
    if missing:
        raise LaunchError(
            f"{_listed(missing)} not set, so the ranks cannot find each other. Under srun, before it: export "
            "MASTER_ADDR=$(scontrol show hostnames | head -n1) MASTER_PORT=29500"
        )
    address, port = (os.environ[name] for name in MASTER)
    if _number("MASTER_PORT", port, LARGEST_PORT) == 0:
        raise LaunchError("MASTER_PORT = 0 in the environment must be a number from 1 to 65535.")
    try:
        socket.getaddrinfo(address, int(port))
    except (OSError, UnicodeError):
        raise LaunchError(
            f"MASTER_ADDR = {address[:100]!r} in the environment is no address of a machine: the name is not known."
        ) from None


# One store for everything: in a second one of the same name the ranks would find the addresses of
# the first. A failure is kept as well, so that nobody waits for the same ranks twice.
_stores: dict[tuple[int, int], Any] = {}


def _store(rank: int, ranks: int, timeout_s: float) -> Any:
    if (rank, ranks) not in _stores:
        check_master()
        _stores[rank, ranks] = _opened(rank, ranks, timeout_s)
    store = _stores[rank, ranks]
    if isinstance(store, RankLostError):
        raise store
    return store


def _opened(rank: int, ranks: int, timeout_s: float) -> Any:
    """Return the store, or the error to raise."""
    from datetime import timedelta

    from torch.distributed import rendezvous  # type: ignore[attr-defined]

    found: list[Any] = []

    def meet() -> None:
        try:
            found.append(next(rendezvous("env://", rank, ranks, timeout=timedelta(seconds=timeout_s)))[0])
        # torch raises DistNetworkError, DistStoreError and plain RuntimeErrors here.
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends in the message below
            found.append(error)

    # A thread, because torch waits without a limit for a server that is there and is no store.
    waiting = threading.Thread(target=meet, daemon=True)
    with quiet():
        waiting.start()
        waiting.join(timeout_s + GRACE_S)
    if found and not isinstance(found[0], Exception):
        return found[0]
    reason = f"no answer within {timeout_s:g} s"
    if found and "EADDRINUSE" in str(found[0]):
        reason = "the port is in use"
    where = ":".join(os.environ[name] for name in MASTER)
    return RankLostError(
        f"Rank {rank} of {ranks} cannot meet the others at {where} (MASTER_ADDR and MASTER_PORT): {reason}."
    )
