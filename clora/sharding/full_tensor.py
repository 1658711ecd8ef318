"""Join the shards of a factor to the full matrix, and cut a full matrix into shards again.

Export and import use these functions, which know no gradients. The gathers of a forward are in
`clora.communication`.

Full shapes: A `[rank, in]`, B `[out, rank]`, with a leading `experts` dim for all experts of the
layer when every expert has a pair of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from clora.adapters import Factor


def full_matrix(factor: Factor) -> torch.Tensor:
    """Return the full matrix of `factor`, with the experts of all expert-parallel ranks.

    All ranks of its tensor-parallel and expert-parallel group must call this together. When
    several sections share the matrix, it has all rows of the first, then all rows of the second.
    """
    joined = _joined_over_tensor_parallel(factor)
    group = factor.wiring.ep_group
    if "ep" not in factor.axes or group is None or factor.wiring.ep_size == 1:
        return joined
    return torch.cat(_all_gather(joined, group))


def local_shard(factor: Factor, matrix: torch.Tensor) -> torch.Tensor:
    """Return the part of the full `matrix` that this rank holds in `factor`."""
    wiring = factor.wiring
    if "ep" in factor.axes:
        matrix = matrix.chunk(wiring.ep_size)[wiring.ep_rank]
    if factor.split_dim is None:
        return matrix
    dim = _split_dim_from_right(factor)
    sections = _sections(factor, matrix, dim, ranks=1)
    return torch.cat([section.chunk(wiring.size, dim)[wiring.rank] for section in sections], dim)


def matrix_on(turn: int, factor: Factor, weight: torch.Tensor) -> torch.Tensor | None:
    """Return the full matrix of `factor` on one rank of its tensor-parallel group.

    All ranks of that group must call this together. Experts of other ranks stay there. Only the
    shards of the other ranks are sent, and only to that rank.

    Args:
        turn: that rank, counted around the group: 0 is its first, and so is its size.
        factor: the factor.
        weight: a shard of the shape of `factor.weight`; may hold other values.

    Returns:
        None on the other ranks.
    """
    wiring = factor.wiring
    at = turn % wiring.size
    if factor.split_dim is None or wiring.size == 1 or wiring.group is None:
        return weight.detach() if wiring.rank == at else None
    # `gather` refuses any other memory layout.
    weight = weight.detach().contiguous()
    shards = [torch.empty_like(weight) for _ in range(wiring.size)] if wiring.rank == at else None
    distributed.gather(weight, shards, dst=distributed.get_global_rank(wiring.group, at), group=wiring.group)
    return None if shards is None else _join(factor, shards)


def _joined_over_tensor_parallel(factor: Factor) -> torch.Tensor:
    """Return the factor joined along tp (etp in experts), with this rank's experts only."""
    weight = factor.weight.detach()
    if factor.split_dim is None or factor.wiring.size == 1 or factor.wiring.group is None:
        return weight
    return _join(factor, _all_gather(weight, factor.wiring.group))


def _join(factor: Factor, shards: list[torch.Tensor]) -> torch.Tensor:
    """Join the shards of all tensor-parallel ranks."""
    dim = _split_dim_from_right(factor)
    # Sections such as gate and up are split over the ranks one by one, so each shard has rows of
    # all of them. Take those of the first section from all ranks first.
    by_rank = [_sections(factor, shard, dim, ranks=factor.wiring.size) for shard in shards]
    return torch.cat([section for same_section in zip(*by_rank, strict=True) for section in same_section], dim)


def _split_dim_from_right(factor: Factor) -> int:
    # Counted from the right, the dim is the same with and without an experts dim.
    return (factor.split_dim or 0) - len(factor.axes)


def _sections(factor: Factor, matrix: torch.Tensor, dim: int, *, ranks: int) -> tuple[torch.Tensor, ...]:
    """Cut a matrix of which each of `ranks` ranks has an equal share into its sections."""
    if not factor.sections:
        return (matrix,)
    return torch.split(matrix, [rows // ranks for _, rows in factor.sections], dim)


def _all_gather(tensor: torch.Tensor, group: ProcessGroup) -> list[torch.Tensor]:
    # `all_gather` refuses any other memory layout.
    tensor = tensor.contiguous()
    shards = [torch.empty_like(tensor) for _ in range(group.size())]
    distributed.all_gather(shards, tensor, group=group)
    return shards
