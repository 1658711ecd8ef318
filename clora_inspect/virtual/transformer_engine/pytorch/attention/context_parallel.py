"""Exchange queries, keys and values between context-parallel ranks, as the real package does for
each `cp_comm_type` (`attention/dot_product_attention/context_parallel.py` there).

A rank holds two pieces of the sequence, one from each end, so that causal attention is equal work:
rank r of n has pieces r and 2n - 1 - r. Shapes: `S` a rank's tokens, `n` ranks, `B` rows, `H`
heads, `D` their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from ...missing import needs_gpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import ProcessGroup

    Attend = Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]
    ]


def attend_in_context(
    attend: Attend,
    qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    group: ProcessGroup | None,
    comm_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to the tokens of all ranks.

    Args:
        attend: takes queries, keys, values and a mask `[B or 1, 1, Q, K]`; returns the output
            `[Q, B, H, D]` and the largest scores.
        qkv: queries, keys and values `[S, B, H, D]` of this rank's tokens.
        mask: the mask of the whole sequence `[1, 1, n * S, n * S]`; None on meta.
        group: the context-parallel ranks; None if the rank has the whole sequence.
        comm_type: "p2p", "all_gather" or "a2a".
    """
    q, k, v = qkv
    if group is None or mask is None:
        return attend(q, k, v, mask)
    order = _order(q.shape[0], group.size(), q.device)
    if comm_type == "a2a":
        # Each rank takes some heads of all tokens.
        q, k, v = (_SequenceToHeads.apply(x, group) for x in qkv)  # type: ignore[no-untyped-call]
        out, largest = attend(q, k, v, _in_order(mask, order, order))
        return _HeadsToSequence.apply(out, group), largest  # type: ignore[no-untyped-call]
    if comm_type == "p2p":
        k, v = _Ring.apply(k, v, group)  # type: ignore[no-untyped-call]
    elif comm_type == "all_gather":
        k, v = (_Gather.apply(x, group) for x in (k, v))  # type: ignore[no-untyped-call]
    else:
        needs_gpu(f"Attention with context parallelism by {comm_type}")
    own = order.view(group.size(), -1)[group.rank()]
    return attend(q, k, v, _in_order(mask, own, order))


def _order(tokens: int, ranks: int, device: torch.device) -> torch.Tensor:
    """Return the positions in the sequence of all ranks' tokens, rank after rank `[n * S]`."""
    pieces = torch.arange(tokens * ranks, device=device).view(2 * ranks, -1)
    return torch.cat([piece for rank in range(ranks) for piece in (pieces[rank], pieces[-1 - rank])])


def _in_order(mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the rows and columns of a mask of the whole sequence in the order of the tensors."""
    rows = mask.index_select(-2, queries) if mask.shape[-2] > 1 else mask
    return rows.index_select(-1, keys) if mask.shape[-1] > 1 else rows


class _SequenceToHeads(torch.autograd.Function):
    """`[S, B, H, D]` of a rank's tokens -> `[n * S, B, H / n, D]` of a rank's heads."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return to_heads(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return to_sequence(grads[0], ctx.group), None


class _HeadsToSequence(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return to_sequence(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return to_heads(grads[0], ctx.group), None


def to_heads(x: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Exchange `[S, B, H, D]` for `[n * S, B, H / n, D]`."""
    tokens, rows, heads, width = x.shape
    sent = x.view(tokens, rows, group.size(), heads // group.size(), width).permute(2, 0, 1, 3, 4).contiguous()
    received = torch.empty_like(sent)
    distributed.all_to_all_single(received, sent, group=group)
    return received.flatten(0, 1)


def to_sequence(x: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Exchange `[n * S, B, H / n, D]` for `[S, B, H, D]`."""
    sent = x.contiguous().view(group.size(), -1, *x.shape[1:])
    received = torch.empty_like(sent)
    distributed.all_to_all_single(received, sent, group=group)
    return received.permute(1, 2, 0, 3, 4).flatten(2, 3)


class _Gather(torch.autograd.Function):
    """`[S, ...]` -> `[n * S, ...]`. The backward gathers again, because the real one keeps only the
    rank's part, and then scatters the sum of the gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        ctx.group = group
        ctx.save_for_backward(x)
        return gathered(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        gathered(x, ctx.group)
        own = torch.empty_like(x)
        distributed.reduce_scatter_tensor(own, grads[0].contiguous(), group=ctx.group)
        return own, None


def gathered(x: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Return `[n * S, ...]`, the parts of all ranks."""
    whole = x.new_empty(group.size() * x.shape[0], *x.shape[1:])
    distributed.all_gather_into_tensor(whole, x.contiguous(), group=group)
    return whole


class _Ring(torch.autograd.Function):
    """Keys and values `[S, ...]` -> those of all ranks `[n * S, ...]`, handed around in a ring.

    The backward hands keys and values around once more, and their gradients after them.
    """

    @staticmethod
    def forward(ctx: Any, k: torch.Tensor, v: torch.Tensor, group: ProcessGroup) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.group = group
        ctx.save_for_backward(k, v)
        return _handed_around(k, v, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        k, v = ctx.saved_tensors
        group, ranks, rank = ctx.group, ctx.group.size(), ctx.group.rank()
        _handed_around(k, v, group)
        by_rank = [grad.chunk(ranks) for grad in grads]

        def of(owner: int) -> torch.Tensor:
            return torch.cat([pieces[owner % ranks].flatten() for pieces in by_rank])

        # Each rank adds its part to the gradients that go around, which end where they belong.
        total = of(rank - 1)
        for step in range(2, ranks + 1):
            total = passed_on(total, group) + of(rank - step)
        own_k, own_v = torch.split(total, [k.numel(), v.numel()])
        return own_k.view(k.shape), own_v.view(v.shape), None


def _handed_around(k: torch.Tensor, v: torch.Tensor, group: ProcessGroup) -> tuple[torch.Tensor, torch.Tensor]:
    ranks, rank = group.size(), group.rank()
    held: dict[int, torch.Tensor] = {rank: torch.cat([k.flatten(), v.flatten()])}
    for step in range(1, ranks):
        held[(rank - step) % ranks] = passed_on(held[(rank - step + 1) % ranks], group)
    pairs = [torch.split(held[owner], [k.numel(), v.numel()]) for owner in range(ranks)]
    return (
        torch.cat([pair[0].view(k.shape) for pair in pairs]),
        torch.cat([pair[1].view(v.shape) for pair in pairs]),
    )


def passed_on(x: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Send `x` to the next rank, and return what the one before has sent."""
    ranks, rank = group.size(), group.rank()
    received = torch.empty_like(x)
    behind, before = (distributed.get_global_rank(group, (rank + step) % ranks) for step in (1, -1))
    works = [distributed.isend(x.contiguous(), behind, group), distributed.irecv(received, before, group)]
    for work in works:
        if work is not None:
            work.wait()
    return received
