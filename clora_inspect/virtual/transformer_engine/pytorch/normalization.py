"""Layer and RMS normalisation over the last dim, for the stand-in's modules. The real package has
no such module: there they are CUDA kernels, which compute in float32.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, zero_centered_gamma: bool) -> torch.Tensor:
    """Return `x` `[..., H]` divided by its root mean square, times `weight` `[H]`.

    With `zero_centered_gamma` the factor is `1 + weight`. The result has the dtype of `x`.
    """
    wide = widened(x)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed * _gamma(weight, zero_centered_gamma)).to(x.dtype)


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, zero_centered_gamma: bool
) -> torch.Tensor:
    """Return `x` `[..., H]` moved to mean 0 and variance 1, times `weight` `[H]`, plus `bias`
    `[H]`.

    With `zero_centered_gamma` the factor is `1 + weight`. The result has the dtype of `x`.
    """
    gamma = _gamma(weight, zero_centered_gamma)
    return F.layer_norm(widened(x), weight.shape, gamma, widened(bias), eps).to(x.dtype)


def _gamma(weight: torch.Tensor, zero_centered_gamma: bool) -> torch.Tensor:
    return widened(weight) + 1 if zero_centered_gamma else widened(weight)


def widened(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in float32, or as it is if it is float64.

    The real kernels compute in float32 and do not take float64. Proofs run in float64 because they
    compare results to the last digits, so it must not be reduced on the way.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
