"""Layer and RMS normalisation over the last dim, in float32 or wider. Not a module of Transformer
Engine.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, zero_centered_gamma: bool) -> torch.Tensor:
    """`x / rms(x) * weight`, or `* (1 + weight)` when gamma is centred on zero; in the dtype of
    `x`.
    """
    wide = widened(x)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normed * _gamma(weight, zero_centered_gamma)).to(x.dtype)


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, zero_centered_gamma: bool
) -> torch.Tensor:
    """Layer normalisation with `weight`, or `1 + weight` when gamma is centred on zero; in the
    dtype of `x`.
    """
    gamma = _gamma(weight, zero_centered_gamma)
    return F.layer_norm(widened(x), weight.shape, gamma, widened(bias), eps).to(x.dtype)


def _gamma(weight: torch.Tensor, zero_centered_gamma: bool) -> torch.Tensor:
    return widened(weight) + 1 if zero_centered_gamma else widened(weight)


def widened(x: torch.Tensor) -> torch.Tensor:
    """The same in float32, in which the real kernels compute; float64, which they do not know,
    stays as it is.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
