"""`RMSNorm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...missing import refusing
from ..normalization import rms_norm
from .norm import Norm

if TYPE_CHECKING:
    import torch


class RMSNorm(Norm):
    """`x / rms(x) * weight` over the last dim; weight `[hidden]`."""

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """`[..., hidden]` -> `[..., hidden]`, in the weight's dtype."""
        return rms_norm(input_.to(self.weight.dtype), self.weight, self.eps, self.zero_centered_gamma)


__getattr__ = refusing(__name__)
