"""Whole factors from the shards of all ranks, and a rank's shard of a whole one. No autograd: for
merging, exporting and importing.

Shapes: A `[rank, in]`, B `[out, rank]`, with a leading `experts` dim (all ranks' experts) where
every expert has a pair of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from clora.adapters import Factor


def _joined_over_axis(factor: Factor) -> torch.Tensor:
    """The factor joined along its tensor-parallel axis (tp, or etp in experts), on every rank of
    it; this rank's experts only.

    The rows of a fused gate and up are all gate rows, then all up rows. Called by all ranks of the
    axis.
    """
    weight = factor.weight.detach()
    if factor.split_dim is None or factor.wiring.size == 1 or factor.wiring.group is None:
        return weight
    shards = _all_gather(weight, factor.wiring.group)
    dim = _dim(factor)
    halves = [shard.chunk(_halves(factor), dim) for shard in shards]
    return torch.cat([half for of_ranks in zip(*halves, strict=True) for half in of_ranks], dim)


def full_matrix(factor: Factor) -> torch.Tensor:
    """The whole matrix, with the experts of all expert-parallel ranks. Called by all ranks of both
    axes.
    """
    joined = _joined_over_axis(factor)
    group = factor.wiring.ep_group
    if "ep" not in factor.axes or group is None or factor.wiring.ep_size == 1:
        return joined
    return torch.cat(_all_gather(joined, group))


def local_shard(factor: Factor, matrix: torch.Tensor) -> torch.Tensor:
    """This rank's part of a whole matrix: the inverse of `whole`."""
    wiring = factor.wiring
    if "ep" in factor.axes:
        matrix = matrix.chunk(wiring.ep_size)[wiring.ep_rank]
    if factor.split_dim is None:
        return matrix
    dim = _dim(factor)
    halves = matrix.chunk(_halves(factor), dim)
    return torch.cat([half.chunk(wiring.size, dim)[wiring.rank] for half in halves], dim)


def _dim(factor: Factor) -> int:
    """The split dim counted from the right, the same with and without an experts dim."""
    return (factor.split_dim or 0) - len(factor.axes)


def _halves(factor: Factor) -> int:
    return 2 if factor.is_gate_and_up else 1


def _all_gather(tensor: torch.Tensor, group: ProcessGroup) -> list[torch.Tensor]:
    tensor = tensor.contiguous()
    shards = [torch.empty_like(tensor) for _ in range(group.size())]
    distributed.all_gather(shards, tensor, group=group)
    return shards
