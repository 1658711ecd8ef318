"""Ranks that somebody else has started, torchrun or srun: what their environment says, and the
store where they meet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from clora.errors import DeviceError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""All three: a cluster's pods have the first two in their environment although nothing was launched
in them yet.
"""
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
"""Of a job step. In a batch script outside of `srun` the second is missing."""
MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Launch:
    """This process's place among the ranks that were started together."""

    rank: int
    ranks: int
    local_rank: int
    """Its number on this machine, and of its GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that reports."""
        return self.rank == 0

    def store(self) -> Store:
        """Where the ranks meet, the same one for as long as the process lives.

        Raises:
            DeviceError: nobody has said where.
        """
        found: Store = _store(self.rank, self.ranks)
        return found


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What a launcher has made of this process; None when it was started by itself."""
    for names in (TORCHRUN, SRUN):
        said = [environment.get(name, "") for name in names]
        if all(number.isdecimal() for number in said):
            return Launch(*map(int, said))
    return None


@cache
def _store(rank: int, ranks: int) -> Any:
    missing = [name for name in MEETING if not os.environ.get(name)]
    if missing:
        raise DeviceError(
            f"{ranks} ranks were started, and {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not set, so they cannot find each "
            "other. Under srun: export MASTER_ADDR=$(scontrol show hostnames | head -n1) MASTER_PORT=29500 before it."
        )
    from torch.distributed import rendezvous  # type: ignore[attr-defined]

    # One store for all that is agreed on: under a second one of the same name the ranks would find
    # the addresses of the first.
    store, _, _ = next(rendezvous("env://", rank, ranks))
    return store
