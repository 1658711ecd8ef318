"""Which keys a query must not see. Not a module of Transformer Engine.

Masks are boolean, True where attention is forbidden, and broadcast to `[B, H, Q, K]`. Shapes: `B`
batch, `H` heads, `Q` queries, `K` keys, `T` tokens of all packed sequences together.
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
    """The sliding window as (keys to the left, keys to the right), -1 for all; a causal mask has
    none to the right.

    Raises:
        AssertionError: an unknown mask type.
    """
    if mask_type not in MASK_TYPES:
        raise AssertionError(f"Invalid attn_mask_type: {mask_type}")
    left, right = window or (-1, -1)
    if "causal" in mask_type:
        return left, 0
    return (-1, -1) if (left, right) == (-1, 0) else (left, right)


def forbidden(
    queries: int,
    keys: int,
    *,
    mask_type: str,
    window: tuple[int, int],
    given: PaddingMask | None,
    bottom_right: bool | None,
    device: torch.device,
) -> torch.Tensor:
    """The whole mask `[B or 1, 1, Q, K]`: padding or arbitrary mask as given, causality and window
    by position.

    Args:
        queries: number of queries.
        keys: number of keys.
        mask_type: one of `MASK_TYPES`.
        window: from `checked_window`.
        given: `[B, 1, 1, K]` for padding (a pair of them, of queries and of keys, for cross
            attention), anything that broadcasts for `arbitrary`.
        bottom_right: whether the window's diagonal ends at the last key; by default for everything
            but plain causal.
        device: where to make it.
    """
    if bottom_right is None or "causal" in mask_type:
        bottom_right = mask_type not in ("causal", "padding_causal")
    mask = None
    offset = torch.tensor(keys - queries if bottom_right else 0, device=device)
    if "padding" in mask_type:
        if given is None:
            raise AssertionError(f"attn_mask_type {mask_type} needs an attention_mask")
        of_queries, of_keys = given if isinstance(given, tuple) else (given, given)
        mask = of_queries.squeeze(1).unsqueeze(3) | of_keys
        if bottom_right:
            # The diagonal ends where each sequence ends, not where the padded matrix does.
            lengths = (~of_keys).sum(-1) - (~of_queries).sum(-1)
            offset = lengths.view(-1, 1, 1, 1)
    elif mask_type == "arbitrary" and given is not None:
        mask = given if isinstance(given, torch.Tensor) else given[1]
    position = torch.arange(queries, device=device).view(1, 1, -1, 1) + offset
    distance = position - torch.arange(keys, device=device).view(1, 1, 1, -1)
    by_position = beyond(distance, window)
    return by_position if mask is None else mask | by_position


def forbidden_packed(
    cu_seqlens_q: torch.Tensor, cu_seqlens_kv: torch.Tensor, tokens_q: int, tokens_kv: int, window: tuple[int, int]
) -> torch.Tensor:
    """The mask `[1, 1, T, T]` of sequences packed one after another: a query sees its own sequence
    only.
    """
    sequence_q, position_q = _sequences(cu_seqlens_q, tokens_q)
    sequence_kv, position_kv = _sequences(cu_seqlens_kv, tokens_kv)
    other = sequence_q[:, None] != sequence_kv[None, :]
    return (other | beyond(position_q[:, None] - position_kv[None, :], window))[None, None]


def beyond(distance: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
    """Where the key lies outside the window; `distance` is query position minus key position."""
    left, right = window
    mask = torch.zeros_like(distance, dtype=torch.bool)
    if left >= 0:
        mask |= distance > left
    if right >= 0:
        mask |= distance < -right
    return mask


def _sequences(cu_seqlens: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every token, the number of its sequence and its position in it."""
    token = torch.arange(tokens, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
    start = torch.cat([cu_seqlens[:-1], cu_seqlens[-1:]])[sequence]
    return sequence, token - start
