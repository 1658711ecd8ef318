"""Attention that caps its scores, as Gemma 2 does (arXiv 2408.00118)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import is_layer_window_attention

if TYPE_CHECKING:
    from torch import Tensor


class SoftCappedAttention(MegatronModule):
    """Causal attention that caps its scores at c by `c tanh(score / c)` before the softmax, and has
    a window on some layers.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,  # noqa: ARG002  # megatron-core's signature; it is always causal here
        attention_type: str,  # noqa: ARG002
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **_options: Any,
    ) -> None:
        super().__init__(config=config)
        self.cap = config.attn_logit_softcapping
        self.scale = softmax_scale if softmax_scale is not None else config.kv_channels**-0.5
        windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number)
        # Tokens to the left that a query sees; None without a window.
        self.left = config.window_size[0] if windowed else None
        self.dropout = torch.nn.Dropout(config.attention_dropout if attention_dropout is None else attention_dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # noqa: ARG002
        attn_mask_type: Any = None,  # noqa: ARG002
        attention_bias: Tensor | None = None,  # noqa: ARG002
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attend, and return `[S, B, heads * D]`.

        Args:
            query: `[S, B, heads, D]`.
            key: `[S, B, groups, D]`.
            value: `[S, B, groups, D]`.
            attention_mask: ignored, like the other masks: attention is causal.
            attn_mask_type: ignored.
            attention_bias: ignored.
            packed_seq_params: must be None.

        Raises:
            NotImplementedError: the sequences are packed.
        """
        if packed_seq_params is not None:
            raise NotImplementedError("Soft-capped attention has no form for packed sequences.")
        heads_per_group = query.size(2) // key.size(2)
        q_BHSD = query.permute(1, 2, 0, 3)
        k_BHSD, v_BHSD = (t.repeat_interleave(heads_per_group, dim=2).permute(1, 2, 0, 3) for t in (key, value))
        # torch's scaled_dot_product_attention cannot cap scores, so the products are written out.
        scores_BHSS = q_BHSD @ k_BHSD.transpose(-1, -2) * self.scale
        if self.cap is not None:
            scores_BHSS = self.cap * torch.tanh(scores_BHSS / self.cap)
        scores_BHSS = scores_BHSS.masked_fill(self._hidden(query.size(0), key.size(0), query.device), float("-inf"))
        # A proof in fp64 must not lose digits here, and one in bf16 needs fp32 as on a GPU.
        at_least_fp32 = torch.promote_types(scores_BHSS.dtype, torch.float32)
        weights_BHSS = self.dropout(scores_BHSS.softmax(dim=-1, dtype=at_least_fp32).to(v_BHSD.dtype))
        context_SBHD: Tensor = (weights_BHSS @ v_BHSD).permute(2, 0, 1, 3)
        return context_SBHD.flatten(2)

    def _hidden(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """Return `[queries, keys]`, true for a key that the query does not see: a later one, or one
        left of the window.
        """
        # The queries are the last of the positions: there may be more keys than queries.
        query_at = torch.arange(keys - queries, keys, device=device)[:, None]
        key_at = torch.arange(keys, device=device)[None, :]
        later = key_at > query_at
        return later if self.left is None else later | (key_at < query_at - self.left)
