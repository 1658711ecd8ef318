"""All ranks succeed or all fail: one that went on alone would wait for the others forever."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from clora import errors
from clora.errors import CloraError


def own_rank() -> int:
    """The number of this process in the job; 0 where it is alone."""
    return distributed.get_rank() if _is_parallel() else 0


def gather_objects(value: Any) -> list[Any]:
    """What every rank has, in rank order. Small plain data only."""
    if not _is_parallel():
        return [value]
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def raise_together(error: CloraError | None) -> None:
    """Raise on every rank when any rank has an error.

    Raises:
        CloraError: the first rank's, of its class.
    """
    said = gather_objects(None if error is None else (type(error).__name__, str(error)))
    for rank, problem in enumerate(said):
        if problem is not None:
            name, message = problem
            raise getattr(errors, name, CloraError)(
                message if len(said) == 1 else f"{message} (rank {rank} of {len(said)})"
            )


def any_rank(flags: torch.Tensor) -> torch.Tensor:
    """Entry by entry, whether it is non-zero on any rank; `flags` are uint8, of the same length on
    all ranks.
    """
    if _is_parallel():
        distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)
    return flags


def send_to_rank_0(
    tensor: torch.Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, owner: int, device: torch.device
) -> torch.Tensor | None:
    """On rank 0, the tensor of rank `owner`, in the CPU's memory; None elsewhere. Called by rank 0
    and by `owner`.
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
    """Whether there are other ranks. In a dry run, on torch's fake backend, nobody else is there to
    answer.
    """
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
        and distributed.get_backend() != "fake"
    )
