"""Stand-in for `transformer_engine.pytorch.optimizers.multi_tensor_apply`: arithmetic on lists of
tensors, with which megatron-core scales and clips gradients. One tensor after another, where the
real functions launch one kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...missing import refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_SIZE = 2048 * 32
"""Elements per block of the real kernels: the first argument of each function, ignored here."""


def multi_tensor_applier(
    op: Callable[..., Any], noop_flag_buffer: torch.Tensor, tensor_lists: list[list[torch.Tensor]], *args: Any
) -> Any:
    return op(CHUNK_SIZE, noop_flag_buffer, tensor_lists, *args)


def multi_tensor_scale(
    _chunk_size: int, noop_flag: torch.Tensor, tensor_lists: list[list[torch.Tensor]], scale: float
) -> None:
    """Write the first list times `scale` into the second; set `noop_flag` to 1 if a value of the
    first is not finite, by which megatron-core finds overflows.
    """
    for source, target in zip(*tensor_lists, strict=True):
        # First, because both lists are often the same.
        if not bool(torch.isfinite(source).all()):
            noop_flag.fill_(1)
        target.copy_(source * scale)


def multi_tensor_scale_tensor(
    chunk_size: int, noop_flag: torch.Tensor, tensor_lists: list[list[torch.Tensor]], scale: torch.Tensor
) -> None:
    """Do as `multi_tensor_scale`, with the factor in a tensor of one element."""
    multi_tensor_scale(chunk_size, noop_flag, tensor_lists, float(scale))


def multi_tensor_l2norm(
    _chunk_size: int, _noop_flag: torch.Tensor, tensor_lists: list[list[torch.Tensor]], per_tensor: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the L2 norm `[1]` of all tensors of the first list together, and with `per_tensor` the
    norm of each.
    """
    norms = torch.stack([x.float().norm() for x in tensor_lists[0]])
    return norms.norm().view(1), norms if per_tensor else None


__getattr__ = refuse_unknown_names(__name__)
