"""Communication of a tensor-parallel linear, through megatron-core's own autograd functions.

The real package has no such module: its linears communicate in their own autograd functions.
megatron-core is imported inside of the functions, because it imports this package while it is
imported. Shapes: `S` sequence, `T` tp ranks.
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


def gather_along_sequence(x: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor:
    """Gather `[S/T, ...]` to `[S, ...]`. Backward reduce-scatters the gradient, because each rank
    has computed a part of its sum.
    """
    from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region

    moved: torch.Tensor = gather_from_sequence_parallel_region(x, tensor_parallel_output_grad=True, group=_group(layer))
    return moved


def reduce_scatter_along_sequence(y: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor:
    """Sum `[S, ...]` over tp and keep this rank's part `[S/T, ...]`. Backward gathers."""
    from megatron.core.tensor_parallel.mappings import reduce_scatter_to_sequence_parallel_region

    moved: torch.Tensor = reduce_scatter_to_sequence_parallel_region(y, group=_group(layer))
    return moved


def all_reduce(y: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor:
    """Sum over tp. Backward passes the gradient on unchanged."""
    from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region

    moved: torch.Tensor = reduce_from_tensor_model_parallel_region(y, group=_group(layer))
    return moved


class _AccumulateIntoMainGrad(torch.autograd.Function):
    """Identity whose backward adds the gradient to the parameter's `main_grad`."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor | None:
        weight = ctx.weight
        weight.main_grad.add_(grads[0])
        # megatron-core's DistributedDataParallel sets this attribute on parameters, and no class
        # declares it. Its hook on the parameter runs only if autograd delivers a gradient there,
        # and ignores that gradient where the flag is true.
        if not hasattr(weight, "grad_added_to_main_grad"):
            return None
        weight.grad_added_to_main_grad = True
        # On meta the gradient is the one that the real linear delivers in place of its own.
        return grads[0] if weight.device.type == "meta" else torch.zeros_like(weight)


def accumulating_in_main_grad(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight so that its gradient is added to `main_grad` (`fuse_wgrad_accumulation`).

    Only parameters under megatron-core's DistributedDataParallel have a `main_grad`; others are
    returned unchanged.
    """
    if not hasattr(weight, "main_grad"):
        return weight
    result: torch.Tensor = _AccumulateIntoMainGrad.apply(weight)  # type: ignore[no-untyped-call]
    return result
