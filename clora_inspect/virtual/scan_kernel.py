"""The scans of Mamba mixers and gated delta nets as one kernel each, which keeps its inputs and no
state of a token.

The stand-ins for them compute token by token. On the meta device a kernel is one operation,
`torch.ops.clora_stand_in.scan`, which says how much arithmetic it stands for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Compute = Callable[[list[torch.Tensor]], torch.Tensor]

_LIBRARY = torch.library.Library("clora_stand_in", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("scan(Tensor like, int[] shape, int flops) -> Tensor")  # type: ignore[no-untyped-call]


def _scan(like: torch.Tensor, shape: list[int], flops: int) -> torch.Tensor:  # noqa: ARG001 - counters read it
    return like.new_empty(shape)


_LIBRARY.impl("scan", _scan, "Meta")  # type: ignore[no-untyped-call]
scan = torch.ops.clora_stand_in.scan


class ScanKernel(torch.autograd.Function):
    """A function of tensors that keeps these tensors.

    `compute` gives the result with values. On meta it is `[shape]` in the dtype of the first
    tensor, and takes `flops` operations forward and twice as many backward.
    """

    @staticmethod
    def forward(ctx: Any, compute: Compute, shape: tuple[int, ...], flops: int, *tensors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*tensors)
        ctx.flops = flops
        if tensors[0].device.type == "meta":
            return scan(tensors[0], shape, flops)  # type: ignore[no-any-return]
        if not any(ctx.needs_input_grad):
            return compute(list(tensors))
        # The graph holds the states of all tokens, which no kernel keeps, so it is hidden from
        # whoever watches what is saved.
        inputs = [
            each.detach().requires_grad_(needs) for each, needs in zip(tensors, ctx.needs_input_grad[3:], strict=True)
        ]
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
            result = compute(inputs)
        ctx.graph = inputs, result
        return result.detach()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if grads[0].device.type == "meta":
            first = scan(tensors[0], tensors[0].shape, 2 * ctx.flops)
            return (None, None, None, first, *(torch.empty_like(each) for each in tensors[1:]))
        inputs, result = ctx.graph
        needed = [each for each in inputs if each.requires_grad]
        found = iter(torch.autograd.grad(result, needed, grads[0], retain_graph=True))
        return (None, None, None, *(next(found) if each.requires_grad else None for each in inputs))


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
