"""The tasks that the tests of the harness run on each rank."""

from __future__ import annotations

import os
import time

import torch
from torch import distributed

from clora.errors import GeometryError


def sums(value: float) -> dict[str, object]:
    """Return this rank's number, and the sum of all ranks' numbers over tp."""
    from megatron.core import parallel_state

    rank = distributed.get_rank()
    total = torch.tensor([value + rank])
    distributed.all_reduce(total, group=parallel_state.get_tensor_model_parallel_group())
    return {"rank": rank, "total": total, "tp": parallel_state.get_tensor_model_parallel_world_size()}


def process_id() -> int:
    return os.getpid()


def fails_on(rank: int) -> None:
    """Raise on one rank while the others wait for it."""
    if distributed.get_rank() == rank:
        raise ZeroDivisionError("the number of this rank")
    distributed.barrier()


def user_mistake() -> None:
    raise GeometryError("dim = 3 is not divisible by tp = 2")


def sleeps() -> None:
    # Not print(): the harness kills this rank, and a buffered line would be lost.
    os.write(1, b"about to sleep\n")
    time.sleep(600)


def dies() -> None:
    # Ends at once, without exceptions or clean-up, as a killed process does.
    os._exit(7)


def dies_on(rank: int) -> None:
    """End the process of one rank, while the others wait for it."""
    if distributed.get_rank() == rank:
        os._exit(7)
    time.sleep(60)


def parent() -> int:
    return os.getppid()
