"""Norms that megatron-core has in no layer: behind a linear, and over all query or key heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from megatron.core.extensions.transformer_engine import TENorm, TERowParallelLinear
from megatron.core.parallel_state import get_tensor_model_parallel_world_size
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

if TYPE_CHECKING:
    from torch import Tensor


class TERowParallelLinearLayerNorm(TERowParallelLinear):
    """A row-parallel linear with a norm behind it: `norm(x W^T)`. The name, and that of the norm,
    are those of Megatron-Bridge.
    """

    def __init__(self, input_size: int, output_size: int, *, config: Any, **options: Any) -> None:
        super().__init__(input_size, output_size, config=config, **options)
        self.post_layernorm = TENorm(config, output_size, eps=config.layernorm_epsilon)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the normalised product, and the bias, which is None in these models."""
        output, bias = super().forward(x)
        return self.post_layernorm(output), bias


class _WholeNorm(MegatronModule):
    """RMSNorm over all heads of a token together, whose weight has an entry for every channel of
    every head. Each tensor-parallel rank has the entries of its own heads, and the mean square is
    that of all ranks.

    megatron-core calls it as it does its norms of single heads, with `[S, B, heads, D]`.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float, heads: int) -> None:
        super().__init__(config=config)
        self.eps, self.width = eps, heads * hidden_size
        local = heads // get_tensor_model_parallel_world_size() * hidden_size
        device = torch.device(torch.cuda.current_device())
        self.weight = torch.nn.Parameter(torch.ones(local, dtype=config.params_dtype, device=device))
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, heads_SBHD: Tensor) -> Tensor:
        """Return `[S, B, heads, D]`, normalised in fp32 or more."""
        x_SBC = heads_SBHD.flatten(2)
        wide = x_SBC.to(torch.promote_types(x_SBC.dtype, torch.float32))
        own = wide.square().sum(dim=-1, keepdim=True)
        # Forward the sums of all ranks are added, and backward their gradients: every rank's output
        # depends on every rank's sum.
        total = copy_to_tensor_model_parallel_region(reduce_from_tensor_model_parallel_region(own))
        normed = wide * torch.rsqrt(total / self.width + self.eps)
        return (self.weight * normed.to(heads_SBHD.dtype)).view_as(heads_SBHD)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the weight as megatron-core's sharded tensor, cut along its only dimension."""
        del metadata
        tensors = make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True), prefix, {"weight": 0}, sharded_offsets
        )
        return dict(tensors)


class WholeQueryNorm(_WholeNorm):
    """`_WholeNorm` over the query heads."""

    def __init__(self, hidden_size: int, config: Any, eps: float) -> None:
        super().__init__(config, hidden_size, eps, config.num_attention_heads)


class WholeKeyNorm(_WholeNorm):
    """`_WholeNorm` over the key heads."""

    def __init__(self, hidden_size: int, config: Any, eps: float) -> None:
        super().__init__(config, hidden_size, eps, config.num_query_groups)
