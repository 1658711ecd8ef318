"""Read from the environment whether torchrun or srun has started this process, as which rank, and
open the store through which the ranks find each other.
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

# All three must be set: the pods of a cluster often have the first two in their environment
# although nothing was launched in them.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Set in a job step. In a batch script outside of `srun` the second is missing.
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
MASTER = ("MASTER_ADDR", "MASTER_PORT")


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

    def store(self) -> Store:
        """Return the store that all ranks share, the same one as long as the process lives.

        Raises:
            DeviceError: the environment does not say where the first rank is.
        """
        found: Store = _store(self.rank, self.ranks)
        return found


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return this process's place according to its launcher; None when it was started by itself."""
    for names in (TORCHRUN, SRUN):
        numbers = [environment.get(name, "") for name in names]
        if all(number.isdecimal() for number in numbers):
            return Launch(*map(int, numbers))
    return None


# Cached, because there must be one store for everything: in a second one of the same name the ranks
# would find the addresses of the first.
@cache
def _store(rank: int, ranks: int) -> Any:
    missing = [name for name in MASTER if not os.environ.get(name)]
    if missing:
        raise DeviceError(
            f"{ranks} ranks were started, and {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not set, "
            "so they cannot find each other. Under srun, before it: export MASTER_ADDR=$(scontrol show hostnames | "
            "head -n1) MASTER_PORT=29500"
        )
    from torch.distributed import rendezvous  # type: ignore[attr-defined]

    store, _, _ = next(rendezvous("env://", rank, ranks))
    return store
