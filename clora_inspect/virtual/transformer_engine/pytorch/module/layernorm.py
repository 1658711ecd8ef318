"""Stand-in for `transformer_engine.pytorch.module.layernorm`."""

from __future__ import annotations

import torch

from ...missing import refuse_unknown_names
from ..normalization import NormKernel
from .norm import Norm


class LayerNorm(Norm):
    """`(x - mean) / std * weight + bias` over the last dim; weight and bias `[H]`."""

    def _register(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> None:
        self.weight = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if device.type != "meta":
            self.reset_parameters()

    def reset_parameters(self, defer_init: bool | None = None) -> None:
        """Set the initial values and the attribute `sequence_parallel`, unless `defer_init`."""
        super().reset_parameters(defer_init)
        if not defer_init:
            torch.nn.init.zeros_(self.bias)
            self._mark(self.bias)

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """Return `input_` `[..., H]` normalised, in the dtype of the weight."""
        normed: torch.Tensor = NormKernel.apply(  # type: ignore[no-untyped-call]
            input_.to(self.weight.dtype), self.weight, self.bias, self.eps, self.zero_centered_gamma
        )
        return normed


__getattr__ = refuse_unknown_names(__name__)
