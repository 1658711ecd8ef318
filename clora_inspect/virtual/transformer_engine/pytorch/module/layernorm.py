"""`LayerNorm`."""

from __future__ import annotations

import torch

from ...missing import refusing
from ..normalization import layer_norm
from .norm import Norm


class LayerNorm(Norm):
    """`(x - mean) / std * weight + bias` over the last dim; weight and bias `[hidden]`."""

    def _register(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self.weight = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if device.type != "meta":
            self.reset_parameters()

    def reset_parameters(self, defer_init: bool | None = None) -> None:
        """Initial values, and the marks by which megatron-core knows replicated norms under
        sequence parallelism.
        """
        super().reset_parameters(defer_init)
        if not defer_init:
            torch.nn.init.zeros_(self.bias)
            self._mark(self.bias)

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """`[..., hidden]` -> `[..., hidden]`, in the weight's dtype."""
        return layer_norm(input_.to(self.weight.dtype), self.weight, self.bias, self.eps, self.zero_centered_gamma)


__getattr__ = refusing(__name__)
