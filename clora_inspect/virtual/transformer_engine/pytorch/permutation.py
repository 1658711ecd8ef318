"""Sorting tokens by expert and back. Shapes: `T` tokens, `E` experts, `H` hidden, `P` permuted
rows.

The row id map, which permute hands to unpermute, is ours: `[P]`, the token of every permuted row.
"""

from __future__ import annotations

import torch

from ..missing import needs_gpu, refusing


def moe_permute(
    inp: torch.Tensor,
    routing_map: torch.Tensor,
    num_out_tokens: int = -1,
    max_token_num: int = -1,
    map_type: str = "mask",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows `[P, H]` of the tokens `[T, H]`, expert by expert, and the row id map; `routing_map` is
    `[T, E]`.
    """
    if map_type != "mask":
        needs_gpu("transformer_engine.pytorch.moe_permute(map_type='index')")
    _, token_P = _pairs(routing_map)
    return inp[token_P], token_P


def moe_permute_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, routing_map: torch.Tensor, num_out_tokens: int = -1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Like `moe_permute`, with the probabilities `[T, E]` of the chosen pairs in the middle, `[P]`."""
    expert_P, token_P = _pairs(routing_map)
    return inp[token_P], probs[token_P, expert_P], token_P


def moe_unpermute(
    inp: torch.Tensor,
    row_id_map: torch.Tensor,
    merging_probs: torch.Tensor | None = None,
    restore_shape: torch.Size | None = None,
    map_type: str = "mask",
    probs: torch.Tensor | None = None,
    pad_offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add the rows `[P, H]` up to the tokens `[T, H]` they came from."""
    if map_type != "mask" or merging_probs is not None or probs is not None or pad_offsets is not None:
        needs_gpu("transformer_engine.pytorch.moe_unpermute with probabilities, padding or an index map")
    if restore_shape is None:
        raise AssertionError("restore_shape says how many tokens there are")
    return inp.new_zeros(restore_shape).index_add(0, row_id_map, inp)


def moe_sort_chunks_by_index(inp: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor) -> torch.Tensor:
    """Cut the rows into chunks and put the chunks into another order."""
    chunks = torch.split(inp, split_sizes.tolist())
    return torch.cat([chunks[i] for i in sorted_index.tolist()])


def moe_sort_chunks_by_index_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `moe_sort_chunks_by_index`, of the rows and of their probabilities alike."""
    return (
        moe_sort_chunks_by_index(inp, split_sizes, sorted_index),
        moe_sort_chunks_by_index(probs, split_sizes, sorted_index),
    )


def _pairs(routing_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Experts and tokens that belong together, expert by expert."""
    expert_P, token_P = routing_map.bool().T.contiguous().nonzero(as_tuple=True)
    return expert_P, token_P


__getattr__ = refusing(__name__)
