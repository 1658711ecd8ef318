"""Attention's autograd function, which keeps what the fused kernels keep: q, k, v, the output, and
statistics of the softmax in place of scores.

Transformer Engine: `FusedAttnFunc.forward` in `attention/dot_product_attention/backends.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.virtual.attention_operation import attention, attention_backward

if TYPE_CHECKING:
    from collections.abc import Callable

    Attend = Callable[[list[torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]


class AttentionKernel(torch.autograd.Function):
    """Attention of `[S, B, H, D]` to `[K, B, G, D]` and `[K, B, G, E]`.

    The forward's tensors are q, k and v, and then what else has gradients: a bias, or the score of
    a sink. `attend` computes the result and the largest score of each head from them.
    """

    @staticmethod
    def forward(ctx: Any, attend: Attend, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = tensors[:3]
        if q.device.type == "meta":
            out, statistics = attention(q, k, v)
            largest = q.new_empty(q.shape[2], dtype=torch.float32)
        else:
            out, largest = _computed(ctx, attend, tensors)
            # The stand-in has the whole graph, so the statistics have no values.
            statistics = q.new_empty(q.shape[1], q.shape[2], q.shape[0], 1, dtype=torch.float32)
        ctx.save_for_backward(*tensors, out, statistics)
        ctx.mark_non_differentiable(largest)
        return out, largest

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *tensors, out, statistics = ctx.saved_tensors
        if out.device.type == "meta":
            of_qkv = attention_backward(grads[0], *tensors[:3], out, statistics)
            return (None, *of_qkv, *(torch.empty_like(each) for each in tensors[3:]))
        inputs, attended = ctx.graph
        needed = [each for each in inputs if each.requires_grad]
        found = iter(torch.autograd.grad(attended, needed, grads[0], retain_graph=True))
        return (None, *(next(found) if each.requires_grad else None for each in inputs))


def _computed(ctx: Any, attend: Attend, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with values, and keep the graph. It holds scores, which no kernel keeps, so it is
    hidden from whoever watches what is saved.
    """
    if not any(ctx.needs_input_grad):
        return attend(list(tensors))
    inputs = [
        each.detach().requires_grad_(needs) for each, needs in zip(tensors, ctx.needs_input_grad[1:], strict=True)
    ]
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
        attended, largest = attend(inputs)
        # A kernel writes the layout that comes next, without gaps.
        attended = attended.contiguous()
    ctx.graph = inputs, attended
    return attended.detach(), largest


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
