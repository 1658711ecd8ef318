"""Stand-in for `transformer_engine.pytorch.attention.rope`: rotary position embedding.

Shapes: `S` sequence, `B` batch, `H` heads, `D` channels, `R` rotated channels, `T` tokens of all
packed sequences together.
"""

from __future__ import annotations

from typing import Any

import torch

from ...missing import gpu_only, needs_gpu, refuse_unknown_names


def apply_rotary_pos_emb(
    t: torch.Tensor,
    freqs: torch.Tensor,
    tensor_format: str = "sbhd",
    start_positions: torch.Tensor | None = None,
    interleaved: bool = False,
    fused: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    cp_size: int = 1,
    cp_rank: int = 0,
) -> torch.Tensor:
    """Return `t` with its first R channels rotated by the angles `freqs`.

    Args:
        t: `[S, B, H, D]`; `[B, S, H, D]` for 'bshd'; `[T, H, D]` for 'thd'.
        freqs: angles `[S or more, 1, 1, R]`.
        tensor_format: 'sbhd', 'bshd' or 'thd'.
        start_positions: not supported.
        interleaved: whether neighbouring channels form a pair, instead of channel i and i + R / 2.
        fused: ignored: whether one kernel does it.
        cu_seqlens: `[sequences + 1]`, starts of the packed sequences and the end; for 'thd' only.
        cp_size: only 1 is supported.
        cp_rank: ignored without context parallelism.

    Raises:
        NotImplementedError: `cp_size` or `start_positions` is used.
        AssertionError: 'thd' without `cu_seqlens`.
    """
    if start_positions is not None or (cp_size > 1 and t.device.type != "meta"):
        needs_gpu("transformer_engine.pytorch.attention.rope.apply_rotary_pos_emb with cp_size or start_positions")
    if tensor_format == "thd" and cu_seqlens is None:
        raise AssertionError("cu_seqlens must not be None when tensor_format is 'thd'.")
    rotated: torch.Tensor = _Rotation.apply(t, freqs, tensor_format, interleaved, cu_seqlens)  # type: ignore[no-untyped-call]
    return rotated


class _Rotation(torch.autograd.Function):
    """The rotation as one kernel. It keeps the angles (`FusedRoPEFunc` of the real file)."""

    @staticmethod
    def forward(
        ctx: Any, t: torch.Tensor, freqs: torch.Tensor, layout: str, interleaved: bool, cu_seqlens: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(freqs, cu_seqlens)
        ctx.settings = layout, interleaved
        return (
            t.new_empty(t.shape) if t.device.type == "meta" else _all_rotated(t, freqs, layout, interleaved, cu_seqlens)
        )

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        freqs, cu_seqlens = ctx.saved_tensors
        (grad,) = grads
        if grad.device.type == "meta":
            return grad.new_empty(grad.shape), None, None, None, None
        # A rotation is linear, so its gradient does not depend on what was rotated.
        with torch.enable_grad():
            t = torch.zeros_like(grad, requires_grad=True)
            layout, interleaved = ctx.settings
            rotated = _all_rotated(t, freqs, layout, interleaved, cu_seqlens)
        return torch.autograd.grad(rotated, t, grad)[0], None, None, None, None


def _all_rotated(
    t: torch.Tensor, freqs: torch.Tensor, layout: str, interleaved: bool, cu_seqlens: torch.Tensor | None
) -> torch.Tensor:
    if cu_seqlens is not None and layout == "thd":
        lengths = cu_seqlens.diff().tolist()
        parts = [_rotated(x.unsqueeze(1), freqs[: len(x)], interleaved) for x in torch.split(t, lengths)]
        return torch.cat(parts).squeeze(1)
    if layout == "bshd":
        return _rotated(t, freqs[: t.shape[1]].transpose(0, 1), interleaved)
    return _rotated(t, freqs[: t.shape[0]], interleaved)


def _rotated(t: torch.Tensor, freqs: torch.Tensor, interleaved: bool) -> torch.Tensor:
    rotated, passed = t[..., : freqs.shape[-1]], t[..., freqs.shape[-1] :]
    if interleaved:
        even, odd = rotated[..., ::2], rotated[..., 1::2]
        by_90_degrees = torch.stack((-odd, even), dim=-1).flatten(-2)
    else:
        first, second = rotated.chunk(2, dim=-1)
        by_90_degrees = torch.cat((-second, first), dim=-1)
    rotated = rotated * freqs.cos().to(t.dtype) + by_90_degrees * freqs.sin().to(t.dtype)
    return torch.cat((rotated, passed), dim=-1)


apply_fused_qkv_rotary_pos_emb = gpu_only("transformer_engine.pytorch.attention.rope.apply_fused_qkv_rotary_pos_emb")

__getattr__ = refuse_unknown_names(__name__)
