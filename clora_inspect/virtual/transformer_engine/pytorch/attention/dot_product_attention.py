"""Stand-in for `transformer_engine.pytorch.attention.dot_product_attention`.

It computes softmax(q k^T) v with the masks, windows, sinks and groups of heads that megatron-core
asks for. The real class chooses between three back ends by the GPU; here there is one.

Shapes: `S` sequence, `B` batch, `H` query heads, `G` key and value heads (GQA groups), `D` channels
of q and k, `E` channels of v, `K` keys, `T` tokens of packed sequences.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ...missing import needs_gpu, refuse_unknown_names
from ..constants import CPLoadBalancingStrategy
from ..distributed import checkpoint
from ..module.base import TransformerEngineBaseModule
from ..normalization import widened
from .context_on_meta import attend_on_meta
from .context_parallel import attend_in_context
from .kernel import AttentionKernel
from .masks import batch_mask, checked_window, packed_mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch.distributed import ProcessGroup

    from ..module.base import RngTracker
    from .masks import PaddingMask


# The real class's three back ends are modules, so they are in the module tree of a model. The first
# two are empty here.
class FlashAttention(torch.nn.Module): ...


class FusedAttention(torch.nn.Module): ...


class FusedScaleMaskSoftmax(torch.nn.Module):
    def forward(self, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return probabilities `[B, H, S, K]` in the dtype of `scores`. The softmax is over the
        keys, in float32 or wider. A query that sees no key gets zeros.
        """
        probabilities = torch.softmax(widened(scores).masked_fill(mask, -math.inf), dim=-1)
        return probabilities.masked_fill(mask, 0.0).to(scores.dtype)


class UnfusedDotProductAttention(torch.nn.Module):
    """The back end that computes here. It takes any mask as a tensor."""

    def __init__(
        self, softmax_scale: float, attention_dropout: float, dropout_context: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale
        self.attention_dropout_ctx = dropout_context
        self.scale_mask_softmax = FusedScaleMaskSoftmax()
        self.attention_dropout = torch.nn.Dropout(attention_dropout)

    def forward(
        self,
        q_SBHD: torch.Tensor,
        k_SBGD: torch.Tensor,
        v_SBGE: torch.Tensor,
        mask: torch.Tensor,
        *,
        bias: torch.Tensor | None = None,
        bias_before_scale: bool = False,
        softcap: float = 0.0,
        sink_H: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the attended values and the largest score of each head.

        Args:
            q_SBHD: queries.
            k_SBGD: keys.
            v_SBGE: values.
            mask: boolean, true where forbidden; broadcasts to `[B, H, S, K]`.
            bias: added to the scores; broadcasts to `[B, H, S, K]`.
            bias_before_scale: whether `bias` is scaled with the scores, instead of added to the
                capped scores.
            softcap: bound of the scores, which a tanh keeps; 0 for none.
            sink_H: score of the sink of each head.

        Returns:
            `[S, B, H, E]`, and the largest score that is not masked `[H]`.
        """
        heads_per_group = q_SBHD.shape[2] // k_SBGD.shape[2]
        k_SBHD = k_SBGD.repeat_interleave(heads_per_group, dim=2)
        v_SBHE = v_SBGE.repeat_interleave(heads_per_group, dim=2)
        scores = torch.einsum("sbhd,tbhd->bhst", q_SBHD, k_SBHD)
        dtype = scores.dtype
        scores = (scores if bias is None or not bias_before_scale else scores + bias) * self.softmax_scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None and not bias_before_scale:
            scores = (scores + bias).to(dtype)
        largest_H = scores.detach().masked_fill(mask, -math.inf).amax(dim=(0, 2, 3))
        probabilities = self._probabilities(scores, mask, sink_H)
        with self.attention_dropout_ctx():
            probabilities = self.attention_dropout(probabilities)
        return torch.einsum("bhst,tbhe->sbhe", probabilities, v_SBHE), largest_H

    def _probabilities(self, scores: torch.Tensor, mask: torch.Tensor, sink_H: torch.Tensor | None) -> torch.Tensor:
        """Return the probabilities of the keys `[B, H, S, K]`.

        A sink is one more key, which all queries see and which has no value. It takes a part of the
        probability.
        """
        if sink_H is None:
            probabilities: torch.Tensor = self.scale_mask_softmax(scores, mask)
            return probabilities
        sink = sink_H.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        mask = torch.nn.functional.pad(mask.expand(*mask.shape[:2], *scores.shape[2:]), (0, 1), value=False)
        probabilities = self.scale_mask_softmax(torch.cat([scores, sink], dim=-1), mask)
        return probabilities[..., :-1]


class DotProductAttention(TransformerEngineBaseModule):
    """Attention over this rank's heads.

    The constructor takes `num_attention_heads` and `num_gqa_groups` of all tp ranks together; the
    tensors in the forward are this rank's.
    """

    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int | tuple[int, int],
        num_gqa_groups: int | None = None,
        attention_dropout: float = 0.0,
        qkv_format: str = "sbhd",
        attn_mask_type: str = "causal",
        window_size: tuple[int, int] | None = None,
        bottom_right_diagonal: bool | None = None,
        softcap: float = 0.0,
        sequence_parallel: bool = False,
        tp_size: int = 1,
        get_rng_state_tracker: RngTracker | None = None,
        tp_group: ProcessGroup | None = None,
        layer_number: int | None = None,
        attention_type: str = "self",
        cp_group: ProcessGroup | list[ProcessGroup] | None = None,
        cp_global_ranks: list[int] | None = None,
        cp_stream: object = None,
        cp_comm_type: str = "p2p",
        softmax_scale: float | None = None,
        softmax_type: str = "vanilla",
        return_max_logit: bool | None = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        k_channels, v_channels = (kv_channels, kv_channels) if isinstance(kv_channels, int) else kv_channels
        self.qkv_format = qkv_format
        self.attn_mask_type = _mask_type(attn_mask_type)
        self.window_size = checked_window(self.attn_mask_type, window_size)
        self.bottom_right_diagonal = bottom_right_diagonal
        self.softcap = softcap
        self.softmax_scale = 1.0 / math.sqrt(k_channels) if softmax_scale is None else softmax_scale
        self._set_tp(tp_group, tp_size)
        self.get_rng_state_tracker = get_rng_state_tracker
        self.num_attention_heads = num_attention_heads
        self.layer_number = 1 if layer_number is None else layer_number
        self.set_context_parallel_group(cp_group, cp_global_ranks, cp_stream, cp_comm_type)
        self.hidden_size_per_attention_head_k = k_channels
        self.hidden_size_per_attention_head_v = v_channels
        self.num_gqa_groups = num_attention_heads if num_gqa_groups is None else num_gqa_groups
        self.num_gqa_groups_per_partition = self.num_gqa_groups // self.tp_size
        if num_attention_heads % self.num_gqa_groups:
            raise AssertionError("The number of attention heads must be divisible by the number of GQA groups!")
        if attention_type not in ("self", "cross"):
            raise AssertionError(f"attention_type {attention_type} not supported")
        self.attention_type = attention_type
        self.attention_dropout = attention_dropout
        self.return_max_logit = return_max_logit
        self.deterministic = os.getenv("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1") == "0"
        self.softmax_type = softmax_type
        self._register_sink()
        self.register_load_state_dict_post_hook(_without_extra_state)  # type: ignore[no-untyped-call]
        self.flash_attention = FlashAttention()
        self.fused_attention = FusedAttention()
        self.unfused_attention = UnfusedDotProductAttention(
            self.softmax_scale, attention_dropout, self._dropout_context(sequence_parallel)
        )

    def _register_sink(self) -> None:
        """Set the score of the sink of each head: a parameter `[H]`, zeros `[H]`, or no sink."""
        self.softmax_offset: torch.Tensor | None
        heads = self.num_attention_heads // self.tp_size
        device = torch.cuda.current_device()
        if self.softmax_type == "learnable":
            self.register_parameter("softmax_offset", torch.nn.Parameter(torch.empty(heads, device=device)))
            self.reset_parameters(defer_init=torch.device(device).type == "meta")
        elif self.softmax_type == "off-by-one":
            self.softmax_offset = torch.zeros(heads, device=device)
        else:
            self.softmax_offset = None

    def _dropout_context(self, sequence_parallel: bool) -> Callable[[], AbstractContextManager[Any]]:
        """Return a function that makes the context in which dropout draws.

        Each tp rank has other heads, so it draws other numbers: those of the tracker's state. As in
        the real class, the tracker is not used with sequence parallelism.
        """
        self.rng_states_tracker = None
        if sequence_parallel or self.get_rng_state_tracker is None:
            return nullcontext
        self.rng_states_tracker = self.get_rng_state_tracker()
        fork: Callable[[], AbstractContextManager[Any]] = self.rng_states_tracker.fork
        return fork

    def _context(
        self, layout: str, mask_type: str, attention_mask: PaddingMask | None, *, on_meta: bool
    ) -> tuple[ProcessGroup | None, int]:
        """Return the ranks with the other parts of the sequence, None if there are none, and how
        many they are.
        """
        if isinstance(self.cp_group, list):
            needs_gpu("Attention with a hierarchy of context-parallel groups")
        if self.cp_group is None or self.cp_group.size() == 1:
            return None, 1
        # Only a causal mask says the same of the tokens of all ranks.
        if (layout == "thd" and not on_meta) or (attention_mask is not None and "causal" not in mask_type):
            needs_gpu("Attention to packed or padded sequences with context parallelism")
        return self.cp_group, self.cp_group.size()

    def set_context_parallel_group(
        self,
        cp_group: ProcessGroup | list[ProcessGroup] | None,
        cp_global_ranks: list[int] | None,
        cp_stream: object,
        cp_comm_type: str = "p2p",
        load_balancing_strategy: CPLoadBalancingStrategy = CPLoadBalancingStrategy.DUAL_CHUNK_SWAP,
    ) -> None:
        """Set the group whose ranks have the other parts of the sequence."""
        self.cp_group = cp_group
        self.cp_global_ranks = cp_global_ranks
        self.cp_stream = cp_stream
        self.cp_comm_type = cp_comm_type
        self.load_balancing_strategy = load_balancing_strategy

    def forward(  # noqa: C901 - the arguments of the real one
        self,
        query_layer: torch.Tensor | None = None,
        key_layer: torch.Tensor | None = None,
        value_layer: torch.Tensor | None = None,
        attention_mask: PaddingMask | None = None,
        qkv_format: str | None = None,
        cu_seqlens_q: torch.Tensor | None = None,
        cu_seqlens_kv: torch.Tensor | None = None,
        cu_seqlens_q_padded: torch.Tensor | None = None,
        cu_seqlens_kv_padded: torch.Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_kv: int | None = None,
        attn_mask_type: str | None = None,
        window_size: tuple[int, int] | None = None,
        bottom_right_diagonal: bool | None = None,
        softcap: float | None = None,
        checkpoint_core_attention: bool = False,
        core_attention_bias_type: str = "no_bias",
        core_attention_bias: torch.Tensor | None = None,
        alibi_slopes: torch.Tensor | None = None,
        fast_zero_fill: bool = True,
        inference_params: object = None,
        pad_between_seqs: bool | None = None,
        fp8_output: bool | None = False,
        bf16_backward: bool | None = False,
        num_splits: int | None = 1,
        score_mod: Callable[..., torch.Tensor] | None = None,
        score_mod_bprop: Callable[..., torch.Tensor] | None = None,
        score_mod_tensors: dict[str, torch.Tensor] | None = None,
        score_mod_bprop_tensors: dict[str, torch.Tensor] | None = None,
        qkv_layer: torch.Tensor | None = None,
        kv_layer: torch.Tensor | None = None,
        qkv_interleave_dim: int = -3,
        thd_attention_policies: list[dict[str, Any]] | None = None,
        thd_attention_policy_dispatch: str = "auto",
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Attend with queries `[S, B, H, D]` to keys `[S, B, G, D]` and values `[S, B, G, E]`.

        With the format 'bshd' the batch comes first. With 'thd' the shapes are `[T, H, D]` and so
        on, and `cu_seqlens_q` and `cu_seqlens_kv` are needed. Arguments that only choose a kernel
        are ignored.

        Returns:
            `[S, B, H * E]`, `[B, S, H * E]` or `[T, H * E]`; with `return_max_logit` a pair of it
            and the largest scores `[H]`.

        Raises:
            NotImplementedError: context parallelism of packed or padded sequences, ALiBi, an
                inference cache, a function of the scores, packed q, k and v, or a policy is used.
            AssertionError: the mask type is unknown, or an argument that it needs is None.
        """
        if core_attention_bias_type == "alibi" or inference_params is not None:
            needs_gpu("Attention with ALiBi or an inference cache")
        if score_mod is not None or thd_attention_policies is not None:
            needs_gpu("Attention with a function of the scores or with policies")
        if query_layer is None or key_layer is None or value_layer is None:
            needs_gpu("Attention with packed q, k and v")
        mask_type = _mask_type(attn_mask_type or self.attn_mask_type)
        window = checked_window(mask_type, window_size or self.window_size)
        layout = qkv_format or self.qkv_format
        on_meta = query_layer.device.type == "meta"
        context_group, ranks = self._context(layout, mask_type, attention_mask, on_meta=on_meta)
        # The kernels want tensors without gaps, and v is a part of the output of `linear_qkv`:
        # without the copy, all of that output would be kept (`get_qkv_layout` in the real
        # `utils.py`).
        q_SBHD, k_SBGD, v_SBGE = (
            _sequence_first(x.contiguous(), layout) for x in (query_layer, key_layer, value_layer)
        )
        mask = None
        # On meta nothing is masked: a mask would take memory that the kernels do not take.
        if on_meta:
            if layout == "thd":
                q_SBHD, k_SBGD, v_SBGE = (_by_sequence(x, cu_seqlens_q) for x in (q_SBHD, k_SBGD, v_SBGE))
        elif layout == "thd":
            mask = _mask_of_packed(
                q_SBHD,
                k_SBGD,
                cu_seqlens_q if cu_seqlens_q_padded is None else cu_seqlens_q_padded,
                cu_seqlens_kv if cu_seqlens_kv_padded is None else cu_seqlens_kv_padded,
                window,
            )
        else:
            mask = batch_mask(
                q_SBHD.shape[0] * ranks,
                k_SBGD.shape[0] * ranks,
                mask_type=mask_type,
                window=window,
                attention_mask=attention_mask,
                bottom_right=self.bottom_right_diagonal if bottom_right_diagonal is None else bottom_right_diagonal,
                device=q_SBHD.device,
            )
        bias = core_attention_bias if core_attention_bias_type != "no_bias" else None
        further = {"bias": bias, "sink_H": self.softmax_offset}
        given = {name: tensor for name, tensor in further.items() if tensor is not None}

        def compute(mask: Any, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            attended: tuple[torch.Tensor, torch.Tensor] = self.unfused_attention(
                *tensors[:3],
                mask,
                bias_before_scale=core_attention_bias_type == "pre_scale_bias",
                softcap=self.softcap if softcap is None else softcap,
                **dict(zip(given, tensors[3:], strict=True)),
            )
            return attended

        def attend_masked(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return AttentionKernel.apply(partial(compute, mask), q, k, v, *given.values())  # type: ignore[no-untyped-call, no-any-return]

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if context_group is not None and q.device.type == "meta":
                out = attend_on_meta(q, k, v, context_group, self.cp_comm_type)
                return out, q.new_empty(q.shape[2])
            return attend_in_context(attend_masked, (q, k, v), mask, context_group, self.cp_comm_type)

        if checkpoint_core_attention:
            out_SBHE, largest_H = checkpoint(
                attend, q_SBHD, k_SBGD, v_SBGE, get_rng_state_tracker=self.get_rng_state_tracker
            )
        else:
            out_SBHE, largest_H = attend(q_SBHD, k_SBGD, v_SBGE)
        if on_meta and layout == "thd":
            out_SBHE = out_SBHE.flatten(0, 1).unsqueeze(1)
        out = _as_layout(out_SBHE.flatten(2), layout)
        return (out, largest_H) if self.return_max_logit else out


def _without_extra_state(_module: torch.nn.Module, incompatible_keys: Any) -> None:
    """Accept checkpoints without attention's `_extra_state`, which old releases did not write."""
    missing = incompatible_keys.missing_keys
    missing[:] = [key for key in missing if "core_attention._extra_state" not in key]


def _mask_of_packed(
    q_SBHD: torch.Tensor,
    k_SBGD: torch.Tensor,
    cu_seqlens_q: torch.Tensor | None,
    cu_seqlens_kv: torch.Tensor | None,
    window: tuple[int, int],
) -> torch.Tensor:
    if cu_seqlens_q is None or cu_seqlens_kv is None:
        raise AssertionError("qkv_format thd needs cu_seqlens_q and cu_seqlens_kv")
    return packed_mask(cu_seqlens_q, cu_seqlens_kv, q_SBHD.shape[0], k_SBGD.shape[0], window)


def _by_sequence(x: torch.Tensor, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    """Return packed tokens `[T, 1, ...]` as rows of equal sequences `[T / n, n, ...]`, which keep
    and compute as much. On meta nobody knows other lengths.
    """
    if cu_seqlens is None:
        raise AssertionError("qkv_format thd needs cu_seqlens_q and cu_seqlens_kv")
    return x.view(-1, cu_seqlens.numel() - 1, *x.shape[2:])


def _mask_type(name: str) -> str:
    """Return the mask type in the spelling of `MASK_TYPES`. The real class takes several."""
    name = name.replace(",", "_")
    return "padding_causal" if name == "causal_padding" else name


def _sequence_first(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "bshd":
        return x.transpose(0, 1)
    return x.unsqueeze(1) if layout == "thd" else x


def _as_layout(out: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "bshd":
        return out.transpose(0, 1)
    return out.squeeze(1) if layout == "thd" else out


__getattr__ = refuse_unknown_names(__name__)
