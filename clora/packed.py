"""Add the deltas of canonical parts to the output of a fused linear, each to its own rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora.fused import RankRows


def packed_sum(base: torch.Tensor, deltas: Mapping[str, torch.Tensor], rows: RankRows) -> torch.Tensor:
    """Return the output of a fused linear plus the deltas of its parts.

    Args:
        base: output of the fused linear, `[..., num_blocks * rows per block]`.
        deltas: canonical part -> `[..., num_blocks * rows of the part per block]`. A part that is
            missing adds nothing.
        rows: how the last dim of `base` is packed.
    """
    deltas_in_order = (deltas.get(stretch.part) for stretch in rows.stretches)
    return cast("torch.Tensor", _PackedSum.apply(base, rows, *deltas_in_order))  # type: ignore[no-untyped-call]


class _PackedSum(torch.autograd.Function):
    """`packed_sum` in one pass over the output, forward and backward.

    Slices and concatenations under autograd would read and write the whole output once per part.
    """

    @staticmethod
    def forward(ctx: Any, base: torch.Tensor, rows: RankRows, *deltas: torch.Tensor | None) -> torch.Tensor:
        ctx.rows = rows
        # The stretches are views, which only a contiguous output has.
        out = torch.empty_like(base, memory_format=torch.contiguous_format)
        for sum_, own, delta in zip(_stretches(out, rows), _stretches(base, rows), deltas, strict=True):
            if delta is None:
                sum_.copy_(own)
            else:
                torch.add(own, delta.reshape(own.shape), out=sum_)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        needed = ctx.needs_input_grad[2:]
        delta_grads = [
            stretch.flatten(-2) if need else None
            for stretch, need in zip(_stretches(grad, ctx.rows), needed, strict=True)
        ]
        return grad, None, *delta_grads


def _stretches(packed: torch.Tensor, rows: RankRows) -> tuple[torch.Tensor, ...]:
    """Return one tensor `[..., num_blocks, rows]` per stretch, a view where `packed` allows it."""
    blocks = packed.reshape(*packed.shape[:-1], rows.num_blocks, packed.shape[-1] // rows.num_blocks)
    return torch.split(blocks, rows.sizes, dim=-1)
