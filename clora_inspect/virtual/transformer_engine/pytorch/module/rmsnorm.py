"""Stand-in for `transformer_engine.pytorch.module.rmsnorm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...missing import refuse_unknown_names
from ..normalization import NormKernel
from .norm import Norm

if TYPE_CHECKING:
    import torch


class RMSNorm(Norm):
    """`x / rms(x) * weight` over the last dim; weight `[H]`."""

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """Return `input_` `[..., H]` normalised, in the dtype of the weight."""
        normed: torch.Tensor = NormKernel.apply(  # type: ignore[no-untyped-call]
            input_.to(self.weight.dtype), self.weight, None, self.eps, self.zero_centered_gamma
        )
        return normed


__getattr__ = refuse_unknown_names(__name__)
