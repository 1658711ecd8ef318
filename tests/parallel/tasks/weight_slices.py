"""Find which slice of a whole model's weights a rank holds, by comparing shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPERT = re.compile(r"(.*\.experts\.linear_fc[12]\.(?:weight|bias))(\d+)")


def is_expert(name: str) -> bool:
    """Return whether a parameter belongs to an expert in a grouped linear."""
    return EXPERT.fullmatch(name) is not None


def slice_of(whole: Mapping[str, torch.Tensor], name: str, local: torch.Tensor, *, gated: bool = True) -> torch.Tensor:
    """Return this rank's part of the tensor that the rank calls `name`.

    Experts are whole and spread over ep; other dims are split over tp or etp.

    Args:
        whole: parameters or gradients of the model on one rank.
        name: the parameter's name on this rank.
        local: the parameter on this rank, for its shape.
        gated: whether `linear_fc1` holds a gate and an up projection, which are split one by one.
    """
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    if (expert := EXPERT.fullmatch(name)) is not None:
        rank = parallel_state.get_expert_tensor_parallel_rank()
        experts = sum(1 for other in whole if other.startswith(expert[1]) and EXPERT.fullmatch(other))
        first = experts // parallel_state.get_expert_model_parallel_world_size()
        first *= parallel_state.get_expert_model_parallel_rank()
        name = f"{expert[1]}{first + int(expert[2])}"
    tensor = whole[name]
    split = [dim for dim in range(tensor.dim()) if tensor.shape[dim] != local.shape[dim]]
    if not split:
        return tensor
    (dim,) = split
    ranks = tensor.shape[dim] // local.shape[dim]
    parts = tensor.chunk(2, dim) if gated and "linear_fc1" in name else (tensor,)
    return torch.cat([part.chunk(ranks, dim)[rank] for part in parts], dim)
