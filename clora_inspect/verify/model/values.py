"""Give a base model values that do not depend on the layout: the same whole matrices, whichever
rank holds which part of them.

megatron-core's sharded state dict says which part of which whole tensor each parameter is. The
whole tensor is drawn from its name, and the part is taken from it.
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

STATE_SPACE_CONSTANTS = ("A_log", "dt_bias", ".D")
"""Ends of the names of a state-space mixer's constants, which are smaller than weights."""


@torch.no_grad()
def fill(chunks: Sequence[nn.Module], *, seed: int, whole: bool = True) -> None:
    """Draw the value of every parameter of the base.

    Args:
        chunks: one rank's model, without adapters.
        seed: another seed is another model.
        whole: draw whole tensors and take this rank's part. False draws this rank's part alone, in
            place, which takes less memory.
    """
    pools = set() if whole else pool_experts(chunks, partial(_draw, seed=seed))
    for chunk in chunks:
        filled = set(pools)
        # A module that is not megatron-core's has no parts: every rank holds its tensors whole,
        # under the same names.
        if whole and hasattr(chunk, "sharded_state_dict"):
            for shard in _shards(chunk):
                tensor = draw_whole(shard.key, tuple(shard.global_shape), seed)
                shard.data.copy_(tensor[_index(shard)])
                filled.add(shard.data.untyped_storage().data_ptr())
        for name, parameter in chunk.named_parameters():
            if parameter.untyped_storage().data_ptr() not in filled:
                # In place: memory has room for a layer at its true width once.
                _draw(parameter, name, seed)


def draw_whole(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return the whole tensor called `name`, in fp32 on the CPU."""
    tensor = torch.empty(shape, device="cpu")
    _draw(tensor, name, seed)
    return tensor


def _draw(tensor: torch.Tensor, name: str, seed: int, *, row: int | None = None) -> None:
    """Fill a tensor in place, with a spread that keeps activations near 1 through many layers.

    Args:
        tensor: the tensor to fill.
        name: its name, which decides the values and their spread.
        seed: seed of the model.
        row: elements in a row of a weight, where the last dim of `tensor` is not that row.
    """
    # crc32 and not hash(), which is another number in every process.
    generator = torch.Generator(device=tensor.device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    half_width = math.sqrt(3.0)  # of a uniform distribution with standard deviation 1
    tensor.uniform_(-half_width, half_width, generator=generator)
    if name.endswith(STATE_SPACE_CONSTANTS):
        tensor.mul_(0.3)
    elif "norm" in name and name.endswith("weight"):
        # Norms multiply by the weight, or by 1 + weight (layernorm_zero_centered_gamma): around 0.9
        # neither vanishes.
        tensor.mul_(0.1).add_(0.9)
    elif (tensor.dim() < 2 and row is None) or name.endswith("bias"):
        tensor.mul_(0.1)
    elif "embedding" not in name:
        tensor.mul_(1 / math.sqrt(row or tensor.shape[-1]))


def _shards(chunk: nn.Module) -> Iterator[Any]:
    """Yield the parts of whole tensors that this rank holds, as views of its parameters."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    from clora.linears import sharded_state

    for value in nested_values(sharded_state(chunk)):
        # A factory makes several tensors of one parameter, for example gate and up of a fused fc1.
        parts = nested_values(value.build()) if isinstance(value, ShardedTensorFactory) else [value]
        for part in parts:
            if isinstance(part, ShardedTensor) and part.data is not None and part.data.is_floating_point():
                yield part


def _index(shard: Any) -> tuple[int | slice, ...]:
    """Return the index of a shard in its whole tensor. The first `prepend_axis_num` dims (layer,
    expert) of the whole are not dims of the shard's own data.
    """
    before = shard.prepend_axis_num
    own = zip(shard.global_offset[before:], shard.data.shape, strict=True)
    return (*shard.global_offset[:before], *(slice(start, start + size) for start, size in own))
