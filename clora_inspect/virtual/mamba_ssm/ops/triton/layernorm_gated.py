"""`RMSNorm` with a gate."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class RMSNorm(torch.nn.Module):
    """`norm(x * silu(z)) * weight` in groups of channels, or the norm before the gate; weight
    `[hidden]`.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.group_size = group_size
        self.norm_before_gate = norm_before_gate
        torch.nn.init.ones_(self.weight)

    def forward(self, x: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """`[..., hidden]` and its gate -> `[..., hidden]`, in the dtype of `x`."""
        # float64 stays what it is; the real kernel computes in float32.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if z is not None and not self.norm_before_gate:
            wide = wide * F.silu(z.to(wide.dtype))
        groups = wide.reshape(*x.shape[:-1], -1, self.group_size or x.shape[-1])
        normed = (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.eps)).flatten(-2)
        normed = normed * self.weight.to(wide.dtype)
        if z is not None and self.norm_before_gate:
            normed = normed * F.silu(z.to(wide.dtype))
        gated: torch.Tensor = normed.to(x.dtype)
        return gated
