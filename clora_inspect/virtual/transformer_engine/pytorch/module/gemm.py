"""The autograd functions of the linears, which keep for the backward what the real ones keep. The
real package has one in each module of a linear.

A weight that is frozen has no gradient, so its input is not kept. Under sequence parallelism the
rank's part of the input is kept, and gathered again in the backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..normalization import norm, norm_backward, statistics
from ..tensor_parallel import all_reduce, gather_along_sequence, reduce_scatter_along_sequence
from .base import get_dummy_wgrad

if TYPE_CHECKING:
    from .base import TransformerEngineBaseModule
    from .grouped_linear import GroupedLinear
    from .layernorm_linear import LayerNormLinear
    from .linear_weights import LinearBase


class LinearKernel(torch.autograd.Function):
    """`x W^T`, with the communication over tp before and after it.

    Transformer Engine: `tensors_to_save` of `_Linear.forward` in `module/linear.py`: the input if
    the weight is trained, and the weight.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, layer: LinearBase) -> torch.Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        total = _gathered(x, layer)
        # The output is no view, as in 2.4 to 2.16. Since 2.17 it is one, which torch lets nobody
        # change in place: rule CL337 says whom that stops.
        y = total.new_empty(*total.shape[:-1], len(weight))
        torch.mm(total.reshape(-1, total.shape[-1]), weight.T, out=y.view(-1, len(weight)))
        return _summed(y, layer)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = _gathered_gradient(grads[0], ctx.layer)
        total = _gathered(x, ctx.layer) if ctx.needs_input_grad[1] else None
        dgrad = _scattered_gradient(_product(grad, weight), ctx.layer) if ctx.needs_input_grad[0] else None
        return dgrad, None if total is None else weight_gradient(grad, total, _fused(weight, ctx.layer)), None


class LayerNormLinearKernel(torch.autograd.Function):
    """A norm, and `x W^T` of its output, with the communication over tp between them.

    Transformer Engine: `tensors_to_save` of `_LayerNormLinear.forward` in
    `module/layernorm_linear.py`: the norm's input, its statistics and its weight, the weight, and
    the norm's output if the weight is trained or the output is returned.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        norm_weight: torch.Tensor,
        norm_bias: torch.Tensor | None,
        weight: torch.Tensor,
        layer: LayerNormLinear,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        normed = norm(x, norm_weight, norm_bias, layer.eps, layer.zero_centered_gamma)
        total = _gathered(normed, layer)
        y = _product(total, weight.T)
        ctx.layer = layer
        keeps_output = weight.requires_grad or layer.return_layernorm_output
        ctx.save_for_backward(
            x,
            norm_weight,
            norm_bias,
            weight,
            normed if keeps_output else None,
            *statistics(x, norm_bias is not None),
        )
        if not layer.return_layernorm_output:
            return y, None
        returned = total if layer.return_layernorm_output_gathered else normed
        # An output must not be the tensor that is kept, or the kept one would hold its own node.
        return y, returned.view_as(returned)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        x, norm_weight, norm_bias, weight, normed, *_ = ctx.saved_tensors
        layer = ctx.layer
        grad, returned = grads
        total = _gathered(normed, layer) if ctx.needs_input_grad[3] else None
        dgrad = torch.zeros_like(x) if grad is None else _product(grad, weight)
        if returned is not None and layer.return_layernorm_output_gathered:
            dgrad += returned
        dgrad = _scattered_gradient(dgrad, layer)
        if returned is not None and not layer.return_layernorm_output_gathered:
            dgrad = dgrad + returned
        wgrad = None if total is None or grad is None else weight_gradient(grad, total, _fused(weight, layer))
        del total
        of_norm = norm_backward(dgrad, x, norm_weight, norm_bias, layer.eps, layer.zero_centered_gamma)
        return (*of_norm, wgrad, None)


class GroupedKernel(torch.autograd.Function):
    """One `x W^T` for each expert, over rows that are sorted by expert.

    Transformer Engine: `tensors_to_save` of `_GroupedLinear.forward` in `module/grouped_linear.py`:
    the input if the weights are trained, and the weights.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, sizes: list[int], layer: GroupedLinear, *parameters: torch.Tensor
    ) -> torch.Tensor:
        weights, biases = parameters[: len(sizes)], parameters[len(sizes) :]
        y = rows.new_empty(len(rows), weights[0].shape[0])
        for i, (x, out) in enumerate(zip(torch.split(rows, sizes), torch.split(y, sizes), strict=True)):
            if layer.apply_bias:
                torch.addmm(biases[i], x, weights[i].T, out=out)
            else:
                torch.mm(x, weights[i].T, out=out)
        ctx.sizes, ctx.layer = sizes, layer
        ctx.save_for_backward(rows if weights[0].requires_grad else None, *weights)
        # A view in every release: torch lets nobody change it in place.
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, *weights = ctx.saved_tensors
        parts = torch.split(grads[0], ctx.sizes)
        dgrad = None
        if ctx.needs_input_grad[0]:
            dgrad = grads[0].new_empty(len(grads[0]), weights[0].shape[1])
            for grad, weight, out in zip(parts, weights, torch.split(dgrad, ctx.sizes), strict=True):
                torch.mm(grad, weight, out=out)
        wgrads: list[torch.Tensor | None] = [None] * len(weights)
        if ctx.needs_input_grad[3]:
            inputs = torch.split(rows, ctx.sizes)
            wgrads = [
                weight_gradient(grad, x, _fused(weight, ctx.layer))
                for grad, x, weight in zip(parts, inputs, weights, strict=True)
            ]
        biases = [grad.sum(0) for grad in parts] if ctx.layer.apply_bias and ctx.needs_input_grad[-1] else []
        biases += [None] * (len(ctx.needs_input_grad) - 3 - len(weights) - len(biases))  # type: ignore[list-item]
        return (dgrad, None, None, *wgrads, *biases)


def _product(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return `[..., O]` for `[..., I]` and `[I, O]`, a view.

    torch multiplies more than two dims in one of two ways, by whether the matrix is trained. Their
    results differ in the last digits, and freezing the base must change none.
    """
    return torch.mm(x.reshape(-1, x.shape[-1]), matrix).view(*x.shape[:-1], matrix.shape[-1])


def weight_gradient(grad: torch.Tensor, x: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Return the gradient `[O, I]` of a weight from that of the output and the input, in `out` if
    it is given.
    """
    return torch.mm(grad.reshape(-1, grad.shape[-1]).T, x.reshape(-1, x.shape[-1]), out=out)


def _fused(weight: torch.Tensor, layer: TransformerEngineBaseModule) -> torch.Tensor | None:
    """Return memory for a gradient that is really added to `main_grad` as it is computed.

    None where it takes memory of its own. With values it always does: the stand-in adds it later.
    """
    is_fused = layer.fuse_wgrad_accumulation and weight.device.type == "meta"
    if not is_fused or not any(hasattr(each, "main_grad") for each in layer.parameters(recurse=False)):
        return None
    return get_dummy_wgrad(list(weight.shape), weight.dtype)


def _gathered(x: torch.Tensor, layer: LinearBase) -> torch.Tensor:
    """Return the input as the matmul needs it: with sequence parallelism the whole sequence."""
    if layer.parallel_mode != "column" or layer.tp_size == 1 or not layer.sequence_parallel:
        return x
    return gather_along_sequence(x, layer)


def _summed(y: torch.Tensor, layer: LinearBase) -> torch.Tensor:
    """Return the output of a row-parallel matmul summed over tp. In other modes return `y`."""
    if layer.parallel_mode != "row" or layer.tp_size == 1:
        return y
    return reduce_scatter_along_sequence(y, layer) if layer.sequence_parallel else all_reduce(y, layer)


def _gathered_gradient(grad: torch.Tensor, layer: LinearBase) -> torch.Tensor:
    """Undo `_summed`."""
    if layer.parallel_mode != "row" or layer.tp_size == 1 or not layer.sequence_parallel:
        return grad
    return gather_along_sequence(grad, layer)


def _scattered_gradient(grad: torch.Tensor, layer: LinearBase) -> torch.Tensor:
    """Undo `_gathered`: sum the gradients of all tp ranks."""
    if layer.parallel_mode != "column" or layer.tp_size == 1:
        return grad
    return reduce_scatter_along_sequence(grad, layer) if layer.sequence_parallel else all_reduce(grad, layer)
