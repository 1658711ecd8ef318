"""Stand-in for `transformer_engine.pytorch.attention.rope`: rotary position embedding.

Shapes: `S` sequence, `B` batch, `H` heads, `D` channels, `R` rotated channels, `T` tokens of all
packed sequences together.
"""

from __future__ import annotations

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
        by_90_degrees = torch.stack((-odd, even), dim=-1).flatten(-2)
    else:
        first, second = rotated.chunk(2, dim=-1)
        by_90_degrees = torch.cat((-second, first), dim=-1)
    rotated = rotated * freqs.cos().to(t.dtype) + by_90_degrees * freqs.sin().to(t.dtype)
    return torch.cat((rotated, passed), dim=-1)


apply_fused_qkv_rotary_pos_emb = gpu_only("transformer_engine.pytorch.attention.rope.apply_fused_qkv_rotary_pos_emb")

__getattr__ = refuse_unknown_names(__name__)
