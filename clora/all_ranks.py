"""Let the ranks of a job agree: share small data, and succeed or fail together.

A rank that goes on alone waits forever at the next collective. So before a function of this library
changes a model or a folder, every rank learns whether another one found a mistake.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from clora.errors import CloraError


def own_rank() -> int:
    """Return the number of this process in the job; 0 when it is alone."""
    return distributed.get_rank() if _is_parallel() else 0


def gather_objects(value: Any) -> list[Any]:
    """Return the value of every rank, in rank order. Meant for small plain data."""
    if not _is_parallel():
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def raise_together(error: CloraError | None) -> None:
    """Raise on every rank when any rank has an error. All ranks must call this.

    Raises:
        CloraError: the error of the first rank that has one, in its own class.
    """
    errors: list[CloraError | None] = gather_objects(error)
    for rank, found in enumerate(errors):
        if found is not None:
            raise type(found)(str(found) if len(errors) == 1 else f"{found} (rank {rank} of {len(errors)})")


def any_rank(flags: torch.Tensor) -> torch.Tensor:
    """Return, entry by entry, whether a flag is set on any rank.

    Args:
        flags: uint8, on a device on which the job communicates, equally long on all ranks. Changed
            in place.
    """
    if _is_parallel():
        # The largest of zeros and ones is their "or".
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return flags


def send_to_rank_0(
    tensor: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, owner: int, device: torch.device
) -> torch.Tensor | None:
    """Move a tensor from rank `owner` to rank 0. Only these two ranks call this.

    Args:
        tensor: the tensor on `owner`; None on rank 0.
        shape: its shape, known to both.
        dtype: its dtype, known to both.
        owner: the rank that has it; may be 0.
        device: a device on which the job communicates.

    Returns:
        On rank 0 the tensor, in the memory of the CPU; None on `owner`.
    """
    if not _is_parallel() or owner == 0:
        return tensor
    if own_rank() == owner:
        if tensor is None:
            raise RuntimeError(f"rank {owner} was to send a tensor that it does not have")
        distributed.send(tensor.to(device).contiguous(), dst=0)
        return None
    received = torch.empty(shape, dtype=dtype, device=device)
    distributed.recv(received, src=owner)
    return received.cpu()


def _is_parallel() -> bool:
    # A dry run has a world of many ranks on torch's fake backend, and only one of them exists.
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
        and distributed.get_backend() != "fake"
    )
