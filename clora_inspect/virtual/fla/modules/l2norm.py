"""L2 normalisation."""

from __future__ import annotations

import torch


def l2norm(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """`[..., channels]` divided by its length over the last dim."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)
