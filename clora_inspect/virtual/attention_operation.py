# ruff: noqa: ARG001 - what a kernel reads changes no shape here
"""Attention as one operation on the meta device, as a fused kernel is one: results, and no scores.

`torch.ops.clora_stand_in.attention` and `attention_backward`. Shapes: `S` sequence, `B` batch, `H`
query heads, `G` key and value heads, `K` keys, `D` channels of q and k, `E` channels of v.
"""

from __future__ import annotations

import torch

_LIBRARY = torch.library.Library("clora_stand_in", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("attention(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor statistics)"
    " -> (Tensor, Tensor, Tensor)"
)


def _attention(q_SBHD: torch.Tensor, k_KBGD: torch.Tensor, v_KBGE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `[S, B, H, E]`, and the statistics of the softmax in float32, `[B, H, S, 1]`."""
    s, b, h, _ = q_SBHD.shape
    out = q_SBHD.new_empty(s, b, h, v_KBGE.shape[-1])
    return out, q_SBHD.new_empty(b, h, s, 1, dtype=torch.float32)


def _attention_backward(
    grad: torch.Tensor,
    q_SBHD: torch.Tensor,
    k_KBGD: torch.Tensor,
    v_KBGE: torch.Tensor,
    out: torch.Tensor,
    statistics: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of q, k and v."""
    return q_SBHD.new_empty(q_SBHD.shape), k_KBGD.new_empty(k_KBGD.shape), v_KBGE.new_empty(v_KBGE.shape)


_LIBRARY.impl("attention", _attention, "Meta")  # type: ignore[no-untyped-call]
_LIBRARY.impl("attention_backward", _attention_backward, "Meta")  # type: ignore[no-untyped-call]

attention = torch.ops.clora_stand_in.attention
attention_backward = torch.ops.clora_stand_in.attention_backward
