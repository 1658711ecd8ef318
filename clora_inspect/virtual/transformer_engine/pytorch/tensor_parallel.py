"""Communication of a tensor-parallel linear, through megatron-core's own autograd functions.

Not a module of Transformer Engine. megatron-core is imported when it is called: it imports us
first. Shapes: `S` sequence, `T` tp ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from .module.base import TransformerEngineBaseModule


def _group(layer: TransformerEngineBaseModule) -> ProcessGroup:
    if layer.tp_group is None:
        raise AssertionError(f"{type(layer).__name__}: TP group not initialized, call set_tensor_parallel_group.")
    return layer.tp_group


def gathered_along_sequence(x: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor:
    """`[S/T, ...]` -> `[S, ...]`; backward reduce-scatters, because every rank computed a part of
    the gradient.
    """
    from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region

    moved: torch.Tensor = gather_from_sequence_parallel_region(x, tensor_parallel_output_grad=True, group=_group(layer))
    return moved


def scattered_along_sequence(y: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor:
    """Sum over tp and keep this rank's part of the sequence: `[S, ...]` -> `[S/T, ...]`; backward
    gathers.
    """
    from megatron.core.tensor_parallel.mappings import reduce_scatter_to_sequence_parallel_region

    moved: torch.Tensor = reduce_scatter_to_sequence_parallel_region(y, group=_group(layer))
    return moved


def copied_to_group(x: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor:
    """The same tensor; backward sums the gradients over tp."""
    from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region

    moved: torch.Tensor = copy_to_tensor_model_parallel_region(x, group=_group(layer))
    return moved


def reduced(y: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor:
    """Sum over tp; backward passes the gradient on."""
    from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region

    moved: torch.Tensor = reduce_from_tensor_model_parallel_region(y, group=_group(layer))
    return moved


class _AccumulateIntoMainGrad(torch.autograd.Function):
    """Identity whose gradient goes to the parameter's `main_grad` instead of its `grad`."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor | None:
        weight = ctx.weight
        weight.main_grad.add_(grads[0])
        if not hasattr(weight, "grad_added_to_main_grad"):
            return None
        # Whoever set this flag waits for autograd to reach the parameter; what arrives there does
        # not count.
        weight.grad_added_to_main_grad = True
        return torch.zeros_like(weight)


def accumulated(weight: torch.Tensor) -> torch.Tensor:
    """The weight, its gradients accumulated in `main_grad` where there is one
    (`fuse_wgrad_accumulation`).
    """
    if not hasattr(weight, "main_grad"):
        return weight
    result: torch.Tensor = _AccumulateIntoMainGrad.apply(weight)  # type: ignore[no-untyped-call]
    return result
