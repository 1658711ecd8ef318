"""Gemma 2 on megatron-core's GPT: norms behind attention and MLP, scaled embeddings, soft-capped
logits (arXiv 2408.00118).

megatron-core has no Gemma 2 of its own. The module tree is the one that Megatron-Bridge builds, so
that names and shapes are those of a real job. It keeps the norm behind a block inside the block's
output projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from megatron.core.extensions.transformer_engine import TENorm, TERowParallelLinear
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import is_layer_window_attention

if TYPE_CHECKING:
    from torch import Tensor


class TERowParallelLinearLayerNorm(TERowParallelLinear):
    """A row-parallel linear with a norm behind it: `norm(x W^T)`."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **options: Any) -> None:
        super().__init__(input_size, output_size, config=config, **options)
        self.post_layernorm = TENorm(config, output_size, eps=config.layernorm_epsilon)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the normalised product, and the bias, which is None for Gemma 2."""
        output, bias = super().forward(x)
        return self.post_layernorm(output), bias


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


class Gemma2Model(GPTModel):
    """GPT with embeddings scaled by sqrt(hidden size), and with capped logits."""

    def _preprocess(self, *args: Any, **options: Any) -> Any:
        decoder_input, *rest = super()._preprocess(*args, **options)
        if self.pre_process and decoder_input is not None:
            # Hugging Face rounds the factor to the activations' dtype before it multiplies.
            decoder_input = decoder_input * torch.tensor(self.config.hidden_size**0.5, dtype=decoder_input.dtype)
        return decoder_input, *rest

    def _postprocess(self, *args: Any, **options: Any) -> Any:
        output = super()._postprocess(*args, **options)
        # With labels the output is a loss, and `compute_language_model_loss` has capped its logits.
        is_loss = options.get("labels") is not None
        return output if is_loss or not self.post_process else self._capped(output)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Any:
        """Return the cross entropy of the capped logits."""
        return super().compute_language_model_loss(labels, self._capped(logits))

    def _capped(self, logits: Tensor) -> Tensor:
        cap = self.config.final_logit_softcapping
        return logits if cap is None else cap * torch.tanh(logits / cap)


def decoder_block_spec(config: Any, vp_stage: int | None) -> Any:
    """Return megatron-core's spec of a dense decoder block, with Gemma 2's attention and output
    projections in it.
    """
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    block = get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
    # All layers share one spec object, so it is changed once however many there are.
    for layer in {id(layer): layer for layer in block.layer_specs}.values():
        layer.submodules.self_attention.submodules.core_attention = SoftCappedAttention
        layer.submodules.self_attention.submodules.linear_proj = TERowParallelLinearLayerNorm
        layer.submodules.mlp.submodules.linear_fc2 = TERowParallelLinearLayerNorm
    return block
