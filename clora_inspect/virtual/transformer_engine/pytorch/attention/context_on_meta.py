"""Attention over a sequence that is split over the cp axis, on the meta device: the messages and
the tensors of the real one, without values.

Transformer Engine: `attention/dot_product_attention/context_parallel.py`, with one class for each
way to exchange. Shapes: `S` this rank's part of the sequence, `C` cp ranks; others as in `kernel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from clora_inspect.virtual.attention_operation import attention, attention_backward

from ...missing import needs_gpu
from .context_parallel import gathered, passed_on, to_heads, to_sequence

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class HeadsExchanged(torch.autograd.Function):
    """`cp_comm_type` 'a2a': each rank attends with a part of the heads over the whole sequence.

    Transformer Engine: `AttnFuncWithCPAndQKVOA2A`, which keeps q, k, v and the output as they are
    between the exchanges.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group = group
        q, k, v = (to_heads(each, group) for each in (q, k, v))
        out, statistics = attention(q, k, v)
        ctx.save_for_backward(q, k, v, out, statistics)
        return to_sequence(out, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, statistics = ctx.saved_tensors
        grad = to_heads(grads[0], ctx.group)
        of_qkv = list(attention_backward(grad, q, k, v, out, statistics))
        del grad
        for i in range(3):
            of_qkv[i] = to_sequence(of_qkv[i], ctx.group)
        return (*of_qkv, None)


class KeysPassedAround(torch.autograd.Function):
    """`cp_comm_type` 'p2p': keys and values go around the ring of cp ranks.

    Transformer Engine: `AttnFuncWithCPAndKVP2P`, which keeps q, the last keys and values that it
    received, the output and the statistics. The buffers and the outputs of all steps live to the
    end of its forward.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group, ctx.shapes = group, (k.shape, v.shape)
        buffers = [torch.cat((k.reshape(-1), v.reshape(-1)))]
        for _ in range(group.size() - 1):
            buffers.append(passed_on(buffers[-1], group))
        steps = [attention(q, *_keys_and_values(buffer, ctx.shapes)) for buffer in buffers]
        out, statistics = (torch.empty_like(each) for each in steps[0])
        ctx.save_for_backward(q, buffers[-1], out, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, kv, out, statistics = ctx.saved_tensors
        total, gradients = torch.empty_like(q), torch.empty_like(kv)
        for _ in range(ctx.group.size() - 1):
            # Keys and values, and after them the gradients that were computed so far.
            attention_backward(grads[0], q, *_keys_and_values(kv, ctx.shapes), out, statistics)
            kv, gradients = passed_on(kv, ctx.group), passed_on(gradients, ctx.group)
        attention_backward(grads[0], q, *_keys_and_values(kv, ctx.shapes), out, statistics)
        keys, values = _keys_and_values(gradients, ctx.shapes)
        return total, keys, values, None


class KeysGathered(torch.autograd.Function):
    """`cp_comm_type` 'all_gather': each rank gathers the keys and values of all.

    Transformer Engine: `AttnFuncWithCPAndKVAllGather`, which attends with each half of its queries
    and copies both outputs into one. It keeps what it was called with, both outputs beside the one
    that it returns, and the statistics; it gathers again in the backward.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group = group
        keys, values = (_in_order(gathered(each, group)) for each in (k, v))
        out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)
        steps = [attention(half, keys, values) for half in q.chunk(2)]
        ctx.save_for_backward(q, k, v, *(each for step in steps for each in step))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *steps = ctx.saved_tensors
        keys, values = (_in_order(gathered(each, ctx.group)) for each in (k, v))
        of_q, of_kv = torch.empty_like(q), [torch.empty_like(each) for each in (keys, values)]
        halves = zip(grads[0].chunk(2), q.chunk(2), steps[::2], steps[1::2], strict=True)
        for grad, half, out, statistics in halves:
            # Added to `of_q` and `of_kv`; both live until then.
            attention_backward(grad, half, keys, values, out, statistics)
        parts = []
        for whole, own in zip((_in_order(each) for each in of_kv), (k, v), strict=True):
            parts.append(torch.empty_like(own))
            distributed.reduce_scatter_tensor(parts[-1], whole, group=ctx.group)
        return of_q, *parts, None


_WAYS: dict[str, type[torch.autograd.Function]] = {
    "a2a": HeadsExchanged,
    "p2p": KeysPassedAround,
    "all_gather": KeysGathered,
}


def attend_on_meta(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: ProcessGroup, way: str) -> torch.Tensor:
    """Attend with queries, keys and values `[S, B, ...]` of this rank to the whole sequence.

    Args:
        q: queries.
        k: keys.
        v: values.
        group: the cp ranks.
        way: `cp_comm_type`.

    Raises:
        NotImplementedError: two ways are mixed.
    """
    if way not in _WAYS:
        needs_gpu(f"Attention with context parallelism by {way}")
    return _WAYS[way].apply(q, k, v, group)  # type: ignore[no-untyped-call, no-any-return]


def _keys_and_values(buffer: torch.Tensor, shapes: tuple[torch.Size, torch.Size]) -> tuple[torch.Tensor, torch.Tensor]:
    keys = shapes[0].numel()
    return buffer[:keys].view(shapes[0]), buffer[keys:].view(shapes[1])


def _in_order(gathered: torch.Tensor) -> torch.Tensor:
    """Return the copy in which the two pieces of each rank stand in the order of the sequence."""
    return torch.empty_like(gathered)
