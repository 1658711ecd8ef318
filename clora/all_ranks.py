"""Let the ranks of a job agree: share small data, and succeed or fail together.

A rank that goes on alone waits forever at the next collective. So before a function of this library
changes a model or a folder, every rank learns whether another one found a mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import distributed

from clora.errors import CloraError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def own_rank() -> int:
    """Return the number of this process in the job; 0 when it is alone."""
    return distributed.get_rank() if is_parallel() else 0


def gather_objects(value: Any) -> list[Any]:
    """Return the value of every rank, in rank order. Meant for small plain data."""
    if not is_parallel():
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


def together(action: Callable[[], T], as_error: Callable[[BaseException], CloraError]) -> T:
    """Run `action` and return its result; raise on every rank when it fails on any.

    All ranks must call this. `action` must not communicate, or must fail on all ranks at once: a
    rank that waits in it for a rank that has failed would wait forever.

    Args:
        action: what this rank does.
        as_error: makes an error that can be sent to the other ranks of whatever `action` raised. It
            is not asked for a `CloraError`.

    Raises:
        CloraError: `action` failed here or on another rank.
    """
    # torch raises this one when a rank cannot read or write a checkpoint, and it is no `Exception`.
    from torch.distributed.checkpoint.api import CheckpointException

    result, error, cause = None, None, None
    try:
        result = action()
    except CloraError as raised:
        error = raised
    except (Exception, CheckpointException) as raised:  # noqa: BLE001 - whatever it is, the other ranks have to know
        error, cause = as_error(raised), raised
    try:
        raise_together(error)
    except CloraError as raised:
        # The cause stays on the rank that has it: not every exception can be sent.
        raise raised from cause
    return cast("T", result)


def any_rank(flags: torch.Tensor) -> torch.Tensor:
    """Return, entry by entry, whether a flag is set on any rank.

    Args:
        flags: uint8, on a device on which the job communicates, equally long on all ranks. Changed
            in place.
    """
    if is_parallel():
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
    if not is_parallel() or owner == 0:
        return tensor
    if own_rank() == owner:
        if tensor is None:
            raise RuntimeError(f"rank {owner} was to send a tensor that it does not have")
        distributed.send(tensor.to(device).contiguous(), dst=0)
        return None
    received = torch.empty(shape, dtype=dtype, device=device)
    distributed.recv(received, src=owner)
    return received.cpu()


def is_parallel() -> bool:
    """Return whether the job has other ranks that take part in collectives."""
    # A dry run has a world of many ranks on torch's fake backend, and only one of them exists.
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
        and distributed.get_backend() != "fake"
    )
