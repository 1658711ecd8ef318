"""Stand-in for `transformer_engine.pytorch.permutation`: sort tokens by expert, and back.

Shapes: `T` tokens, `E` experts, `H` hidden, `P` permuted rows, one for each pair of a token and an
expert that it is routed to. `row_id_map` is what permuting passes on to unpermuting. Callers do not
look into it, so ours holds other numbers than the real one, in a tensor of the same size: the token
of each permuted row, then its expert. With padding it is `[P]`, the token of each permuted row, and
-1 for a row of padding.

The kernels keep the map and no rows (`save_for_backward` in the real `permutation.py`).
"""

from __future__ import annotations

from typing import Any

import torch

from ..missing import needs_gpu, refuse_unknown_names


def moe_permute(
    inp: torch.Tensor,
    routing_map: torch.Tensor,
    num_out_tokens: int = -1,
    max_token_num: int = -1,
    map_type: str = "mask",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of the first expert's tokens, then the second's, and so on.

    Args:
        inp: tokens `[T, H]`.
        routing_map: `[T, E]`, true where a token is routed to an expert.
        num_out_tokens: ignored: P as the caller knows it.
        max_token_num: ignored: memory to reserve.
        map_type: only 'mask' is supported.

    Returns:
        The rows `[P, H]` and the row id map.

    Raises:
        NotImplementedError: `map_type` is not 'mask'.
    """
    if map_type != "mask":
        needs_gpu("transformer_engine.pytorch.moe_permute(map_type='index')")
    return _Permute.apply(inp, None, routing_map)[::2]  # type: ignore[no-untyped-call, no-any-return]


def moe_permute_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, routing_map: torch.Tensor, num_out_tokens: int = -1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Permute as `moe_permute` does, and also the probabilities `probs` `[T, E]`.

    Returns:
        The rows `[P, H]`, the probability of each row's pair `[P]`, and the row id map.
    """
    return _Permute.apply(inp, probs, routing_map)  # type: ignore[no-untyped-call, no-any-return]


def moe_permute_and_pad_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, routing_map: torch.Tensor, tokens_per_expert: torch.Tensor, align_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Permute as `moe_permute_with_probs` does, and pad each expert's rows with zeros.

    Args:
        inp: tokens `[T, H]`.
        probs: `[T, E]`.
        routing_map: `[T, E]`, true where a token is routed to an expert.
        tokens_per_expert: `[E]`.
        align_size: what each expert's number of rows becomes a multiple of.

    Returns:
        The rows `[P, H]`, the probability of each `[P]`, the row id map `[P]`, how many rows of
        padding stand before each expert's `[E]` (None if there is none at all), and each expert's
        number of rows `[E]`.

    Raises:
        ValueError: `tokens_per_expert` is None, or `align_size` is not positive.
    """
    if tokens_per_expert is None:
        raise ValueError("tokens_per_expert must be provided to the fused permute padding function.")
    if align_size <= 0:
        raise ValueError(f"align_size must be positive, got {align_size}.")
    expert_P, token_P = _pairs(routing_map)
    tokens_E = tokens_per_expert.to(inp.device)
    rows_E = ((tokens_E + align_size - 1) // align_size * align_size).long()
    padding_E = (rows_E - tokens_E).cumsum(0).roll(1)
    padding_E[0] = 0
    # Where each pair's row stands once the rows of padding are there.
    place_P = torch.arange(len(token_P), device=inp.device) + padding_E[expert_P]
    total = int(rows_E.sum())
    row_id_map = torch.full((total,), -1, dtype=token_P.dtype, device=inp.device).index_copy(0, place_P, token_P)
    rows = inp.new_zeros(total, inp.shape[1]).index_copy(0, place_P, inp[token_P])
    probs_P = probs.new_zeros(total).index_copy(0, place_P, probs[token_P, expert_P])
    return rows, probs_P, row_id_map, padding_E if total > len(token_P) else None, rows_E


def moe_unpermute(
    inp: torch.Tensor,
    row_id_map: torch.Tensor,
    merging_probs: torch.Tensor | None = None,
    restore_shape: torch.Size | None = None,
    map_type: str = "mask",
    probs: torch.Tensor | None = None,
    pad_offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return for each token the sum of its rows, `[T, H]`, in the shape `restore_shape`.

    Args:
        inp: rows `[P, H]`.
        row_id_map: from `moe_permute`.
        merging_probs: not supported: weights of the rows.
        restore_shape: `[T, H]`.
        map_type: only 'mask' is supported.
        probs: not supported, the older name of `merging_probs`.
        pad_offsets: ignored: the row id map says which rows are padding.

    Raises:
        NotImplementedError: an option that is not supported is used.
        AssertionError: `restore_shape` is None.
    """
    if map_type != "mask" or merging_probs is not None or probs is not None:
        needs_gpu("transformer_engine.pytorch.moe_unpermute with probabilities or an index map")
    if restore_shape is None:
        raise AssertionError("restore_shape says how many tokens there are")
    if row_id_map.dim() == 2:
        return _Unpermute.apply(inp, row_id_map, restore_shape)  # type: ignore[no-untyped-call, no-any-return]
    is_token = row_id_map >= 0
    return inp.new_zeros(restore_shape).index_add(0, row_id_map[is_token], inp[is_token])


def moe_sort_chunks_by_index(inp: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor) -> torch.Tensor:
    """Cut the rows into chunks of `split_sizes`, and return them in the order `sorted_index`."""
    return _SortChunks.apply(inp, split_sizes, sorted_index)  # type: ignore[no-untyped-call, no-any-return]


def moe_sort_chunks_by_index_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort the chunks of the rows and those of their probabilities."""
    return (
        moe_sort_chunks_by_index(inp, split_sizes, sorted_index),
        moe_sort_chunks_by_index(probs, split_sizes, sorted_index),
    )


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inp: torch.Tensor, probs: torch.Tensor | None, routing_map: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        expert_P, token_P = _pairs(routing_map)
        tokens, experts = routing_map.shape
        row_id_map = torch.empty(tokens, 2 * experts + 1, dtype=torch.int32, device=inp.device)
        row_id_map.view(-1)[: 2 * len(token_P)] = torch.cat([token_P, expert_P])
        ctx.save_for_backward(row_id_map)
        ctx.shapes = inp.shape, routing_map.shape
        ctx.mark_non_differentiable(row_id_map)
        return inp[token_P], None if probs is None else probs[token_P, expert_P], row_id_map

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        (row_id_map,) = ctx.saved_tensors
        shape, map_shape = ctx.shapes
        token_P, expert_P = row_id_map.view(-1)[: 2 * len(grads[0])].long().chunk(2)
        grad = grads[0].new_zeros(shape).index_add_(0, token_P, grads[0])
        if not ctx.needs_input_grad[1]:
            return grad, None, None
        return grad, grads[1].new_zeros(map_shape).index_put_((token_P, expert_P), grads[1]), None


class _Unpermute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inp: torch.Tensor, row_id_map: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        ctx.save_for_backward(row_id_map)
        ctx.rows = len(inp)
        return inp.new_zeros(shape).index_add_(0, row_id_map.view(-1)[: len(inp)], inp)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (row_id_map,) = ctx.saved_tensors
        return grads[0][row_id_map.view(-1)[: ctx.rows].long()], None, None


class _SortChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inp: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor) -> torch.Tensor:
        # The order of rows that have no values does not matter.
        order = torch.arange(len(inp), dtype=torch.int32, device=inp.device)
        if inp.device.type != "meta":
            chunks = torch.split(order, split_sizes.tolist())
            order = torch.cat([chunks[i] for i in sorted_index.tolist()])
        ctx.save_for_backward(order)
        return inp[order]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        return grads[0].new_empty(grads[0].shape).index_copy_(0, order.long(), grads[0]), None, None


def _pairs(routing_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the expert `[P]` and the token `[P]` of each pair, in the order of the experts."""
    # Transposed, so that nonzero() lists expert by expert instead of token by token.
    expert_P, token_P = routing_map.bool().T.contiguous().nonzero(as_tuple=True)
    return expert_P, token_P


__getattr__ = refuse_unknown_names(__name__)
