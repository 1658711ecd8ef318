"""Attention masks. The real package has no such module: its kernels apply masks as they compute.

Masks are boolean and true where a query must not see a key. They broadcast to `[B, H, Q, K]`.
Shapes: `B` batch, `H` heads, `Q` queries, `K` keys, `T` tokens of all packed sequences together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    PaddingMask = torch.Tensor | tuple[torch.Tensor, torch.Tensor]

MASK_TYPES = (
    "no_mask",
    "padding",
    "causal",
    "padding_causal",
    "causal_bottom_right",
    "padding_causal_bottom_right",
    "arbitrary",
)


def checked_window(mask_type: str, window: tuple[int, int] | None) -> tuple[int, int]:
    """Return the sliding window of a mask as (keys to the left, keys to the right), -1 for all.

    A causal mask is a window with no keys to the right.

    Raises:
        AssertionError: `mask_type` is not one of `MASK_TYPES`.
    """
    if mask_type not in MASK_TYPES:
        raise AssertionError(f"Invalid attn_mask_type: {mask_type}")
    left, right = window or (-1, -1)
    if "causal" in mask_type:
        return left, 0
    return (-1, -1) if (left, right) == (-1, 0) else (left, right)


def batch_mask(
    queries: int,
    keys: int,
    *,
    mask_type: str,
    window: tuple[int, int],
    attention_mask: PaddingMask | None,
    bottom_right: bool | None,
    device: torch.device,
) -> torch.Tensor:
    """Return the mask `[B or 1, 1, Q, K]` of a batch: the caller's mask and that of the window.

    Args:
        queries: number of queries Q.
        keys: number of keys K.
        mask_type: one of `MASK_TYPES`.
        window: from `checked_window`.
        attention_mask: the caller's mask. `[B, 1, 1, K]` for padding; for cross attention a pair,
            of queries and of keys. For 'arbitrary' any shape that broadcasts.
        bottom_right: whether the window's diagonal ends at the last query and the last key, and not
            starts at the first ones; it matters if Q and K differ. None means true. Causal types
            ignore it, because their names say which of the two they are.
        device: device of the result.
    """
    if bottom_right is None or "causal" in mask_type:
        bottom_right = mask_type not in ("causal", "padding_causal")
    mask = None
    offset = torch.tensor(keys - queries if bottom_right else 0, device=device)
    if "padding" in mask_type:
        if attention_mask is None:
            raise AssertionError(f"attn_mask_type {mask_type} needs an attention_mask")
        of_queries, of_keys = attention_mask if isinstance(attention_mask, tuple) else (attention_mask, attention_mask)
        mask = of_queries.squeeze(1).unsqueeze(3) | of_keys
        if bottom_right:
            # The diagonal ends at the last token of each sequence, not at the end of the padding.
            lengths = (~of_keys).sum(-1) - (~of_queries).sum(-1)
            offset = lengths.view(-1, 1, 1, 1)
    elif mask_type == "arbitrary" and attention_mask is not None:
        mask = attention_mask if isinstance(attention_mask, torch.Tensor) else attention_mask[1]
    position = torch.arange(queries, device=device).view(1, 1, -1, 1) + offset
    distance = position - torch.arange(keys, device=device).view(1, 1, 1, -1)
    by_position = outside_window(distance, window)
    return by_position if mask is None else mask | by_position


def packed_mask(
    cu_seqlens_q: torch.Tensor, cu_seqlens_kv: torch.Tensor, tokens_q: int, tokens_kv: int, window: tuple[int, int]
) -> torch.Tensor:
    """Return the mask `[1, 1, T, T]` of packed sequences: a query sees its own sequence only.

    Args:
        cu_seqlens_q: `[sequences + 1]`, the first query of each sequence, and the end of the last.
        cu_seqlens_kv: the same for keys.
        tokens_q: number of queries.
        tokens_kv: number of keys.
        window: from `checked_window`.
    """
    sequence_q, position_q = _sequences(cu_seqlens_q, tokens_q)
    sequence_kv, position_kv = _sequences(cu_seqlens_kv, tokens_kv)
    other = sequence_q[:, None] != sequence_kv[None, :]
    return (other | outside_window(position_q[:, None] - position_kv[None, :], window))[None, None]


def outside_window(distance: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """Return where `distance`, a query's position minus a key's, lies outside of the window."""
    left, right = window
    mask = torch.zeros_like(distance, dtype=torch.bool)
    if left >= 0:
        mask |= distance > left
    if right >= 0:
        mask |= distance < -right
    return mask


def _sequences(cu_seqlens: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each token the number of its sequence `[T]` and its position in it `[T]`."""
    token = torch.arange(tokens, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
    # Tokens after the last sequence (padding) get one more sequence, which starts at its end.
    start = torch.cat([cu_seqlens[:-1], cu_seqlens[-1:]])[sequence]
    return sequence, token - start
