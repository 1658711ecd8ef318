"""Stand-in for `fla.modules.l2norm`."""

from __future__ import annotations

import torch


def l2norm(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Return `x` `[..., channels]` divided by its Euclidean length over the last dim."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)
