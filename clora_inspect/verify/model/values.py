"""Values for a base model that do not depend on the layout: the same whole matrices, whoever holds
which part of them.

megatron-core says itself, in its sharded state dict, which part of which whole tensor each
parameter is; the whole tensor is drawn from its name, and the part is taken.
"""

from __future__ import annotations

import math
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.expert_pool import pool_experts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

KEPT = ("A_log", "dt_bias", ".D")
"""Ends of the names of a state-space mixer's own constants, which have a range of their own."""


@torch.no_grad()
def fill(chunks: Sequence[nn.Module], *, seed: int, whole: bool = True) -> None:
    """Give every parameter of the base its value.

    Args:
        chunks: one rank's model, without adapters.
        seed: another seed, another model.
        whole: draw whole tensors and take this rank's part; False draws this rank's part alone,
            with less memory.
    """
    pools = set() if whole else pool_experts(chunks, partial(_draw, seed=seed))
    for chunk in chunks:
        filled = set(pools)
        # What is no megatron-core module has no parts: every rank holds its tensors whole, under
        # the same names.
        if whole and hasattr(chunk, "sharded_state_dict"):
            for shard in _shards(chunk):
                tensor = drawn(shard.key, tuple(shard.global_shape), seed)
                shard.data.copy_(tensor[_index(shard)])
                filled.add(shard.data.untyped_storage().data_ptr())
        for name, parameter in chunk.named_parameters():
            if parameter.untyped_storage().data_ptr() not in filled:
                # In place: a layer at its true width fits into memory once.
                _draw(parameter, name, seed)


def drawn(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The whole tensor called `name`, fp32."""
    tensor = torch.empty(shape, device="cpu")
    _draw(tensor, name, seed)
    return tensor


def _draw(tensor: torch.Tensor, name: str, seed: int, *, row: int | None = None) -> None:
    """Fill a tensor; of weights whose rows have `row` elements where its last dim does not say so."""
    generator = torch.Generator(device=tensor.device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    spread = math.sqrt(3.0)  # of a uniform distribution with standard deviation 1
    tensor.uniform_(-spread, spread, generator=generator)
    if name.endswith(KEPT):
        tensor.mul_(0.3)
    elif "norm" in name and name.endswith("weight"):
        # Around 0 where megatron-core adds 1, around 1 elsewhere: both are far from vanishing.
        tensor.mul_(0.1).add_(0.9)
    elif (tensor.dim() < 2 and row is None) or name.endswith("bias"):
        tensor.mul_(0.1)
    elif "embedding" not in name:
        tensor.mul_(1 / math.sqrt(row or tensor.shape[-1]))


def _shards(chunk: Any) -> Iterator[Any]:
    """The parts of whole tensors that this rank holds, as views of its parameters."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    for value in nested_values(chunk.sharded_state_dict()):
        parts = nested_values(value.build()) if isinstance(value, ShardedTensorFactory) else [value]
        for part in parts:
            if isinstance(part, ShardedTensor) and part.data is not None and part.data.is_floating_point():
                yield part


def _index(shard: Any) -> tuple[int | slice, ...]:
    before = shard.prepend_axis_num
    own = zip(shard.global_offset[before:], shard.data.shape, strict=True)
    return (*shard.global_offset[:before], *(slice(start, start + size) for start, size in own))
