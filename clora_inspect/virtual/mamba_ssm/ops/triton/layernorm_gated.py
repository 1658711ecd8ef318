"""Stand-in for `mamba_ssm.ops.triton.layernorm_gated`: the norm at the end of a Mamba mixer."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class RMSNorm(torch.nn.Module):
    """RMS norm with a gate `z`; weight `[hidden]`.

    It computes `norm(x * silu(z)) * weight`, or `norm(x) * weight * silu(z)` with
    `norm_before_gate`. The root mean square is over each `group_size` channels.
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
        """Normalise `x` `[..., hidden]` with the gate `z` `[..., hidden]`, in the dtype of `x`."""
        # The kernel computes in float32. float64, which it does not take, is not reduced here.
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
