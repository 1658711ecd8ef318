"""Arithmetic on many tensors at once, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...missing import refusing

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_SIZE = 2048 * 32
"""Elements that a GPU kernel takes at a time; here it is only passed on."""


def multi_tensor_applier(
    op: Callable[..., Any], noop_flag_buffer: torch.Tensor, tensor_lists: list[list[torch.Tensor]], *args: Any
) -> Any:
    """Call `op` on the lists of tensors."""
    return op(CHUNK_SIZE, noop_flag_buffer, tensor_lists, *args)


def multi_tensor_scale(
    _chunk_size: int, noop_flag: torch.Tensor, tensor_lists: list[list[torch.Tensor]], scale: float
) -> None:
    """Write the scaled first list into the second; raise the flag where a value is not finite."""
    for source, target in zip(*tensor_lists, strict=True):
        target.copy_(source * scale)
        if not bool(torch.isfinite(source).all()):
            noop_flag.fill_(1)


def multi_tensor_l2norm(
    _chunk_size: int, _noop_flag: torch.Tensor, tensor_lists: list[list[torch.Tensor]], per_tensor: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The L2 norm of all tensors of the first list together `[1]`, and with `per_tensor` of each."""
    norms = torch.stack([x.float().norm() for x in tensor_lists[0]])
    return norms.norm().view(1), norms if per_tensor else None


__getattr__ = refusing(__name__)
