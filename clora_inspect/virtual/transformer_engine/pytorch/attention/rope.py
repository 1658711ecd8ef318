"""Rotary position embedding. Shapes: `S` sequence, `B` batch, `H` heads, `D` channels, `R` rotated
channels.
"""

from __future__ import annotations

from typing import NoReturn

import torch

from ...missing import needs_gpu, refusing


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
    """Rotate the first R channels of `[S, B, H, D]` (`bshd`, or `thd` with `cu_seqlens`) by
    `[S, 1, 1, R]`.

    `fused` is how a GPU would do it; the result is the same.
    """
    if cp_size > 1 or start_positions is not None:
        needs_gpu("transformer_engine.pytorch.attention.rope.apply_rotary_pos_emb with cp_size or start_positions")
    if tensor_format == "thd":
        if cu_seqlens is None:
            raise AssertionError("cu_seqlens must not be None when tensor_format is 'thd'.")
        lengths = cu_seqlens.diff().tolist()
        parts = [_rotated(x.unsqueeze(1), freqs[: len(x)], interleaved) for x in torch.split(t, lengths)]
        return torch.cat(parts).squeeze(1)
    if tensor_format == "bshd":
        return _rotated(t, freqs[: t.shape[1]].transpose(0, 1), interleaved)
    return _rotated(t, freqs[: t.shape[0]], interleaved)


def _rotated(t: torch.Tensor, freqs: torch.Tensor, interleaved: bool) -> torch.Tensor:
    rotated, passed = t[..., : freqs.shape[-1]], t[..., freqs.shape[-1] :]
    if interleaved:
        even, odd = rotated[..., ::2], rotated[..., 1::2]
        quarter_turn = torch.stack((-odd, even), dim=-1).flatten(-2)
    else:
        first, second = rotated.chunk(2, dim=-1)
        quarter_turn = torch.cat((-second, first), dim=-1)
    turned = rotated * freqs.cos().to(t.dtype) + quarter_turn * freqs.sin().to(t.dtype)
    return torch.cat((turned, passed), dim=-1)


def apply_fused_qkv_rotary_pos_emb(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    needs_gpu("transformer_engine.pytorch.attention.rope.apply_fused_qkv_rotary_pos_emb")


__getattr__ = refusing(__name__)
