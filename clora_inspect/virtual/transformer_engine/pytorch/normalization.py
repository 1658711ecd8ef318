"""Layer and RMS normalisation over the last dim, for the stand-in's modules. The real package has
no such module: there they are CUDA kernels, which compute in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


class NormKernel(torch.autograd.Function):
    """A norm as one kernel, which keeps its input, its weight and a number or two for each row.

    Transformer Engine: `tensors_to_save` in `module/layernorm_linear.py`, `op_forward` in
    `ops/basic/rmsnorm.py` and `ops/basic/layer_norm.py`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float, zero_centered: bool
    ) -> torch.Tensor:
        # The kernel flattens its input, which copies heads that lie between others (the real
        # `ops/basic/rms_norm.py`). Without the copy, all of queries, keys and values are kept.
        x = x.contiguous()
        ctx.save_for_backward(x, weight, bias, *statistics(x, bias is not None))
        ctx.settings = eps, zero_centered
        return norm(x, weight, bias, eps, zero_centered)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, *_ = ctx.saved_tensors
        return (*norm_backward(grads[0], x, weight, bias, *ctx.settings), None, None)


def norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float, zero_centered: bool
) -> torch.Tensor:
    """Return `x` `[..., H]` normalised: by `layer_norm` where there is a bias, else `rms_norm`."""
    if x.device.type == "meta":
        # A kernel makes nothing but its result.
        return torch.empty_like(x)
    if bias is None:
        return rms_norm(x, weight, eps, zero_centered)
    return layer_norm(x, weight, bias, eps, zero_centered)


def norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    zero_centered: bool,
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of the input, the weight and the bias of `norm`."""
    if x.device.type == "meta":
        return torch.empty_like(x), torch.empty_like(weight), None if bias is None else torch.empty_like(bias)
    with torch.enable_grad():
        inputs = [each.detach().requires_grad_() for each in (x, weight, bias) if each is not None]
        y = norm(inputs[0], inputs[1], inputs[2] if bias is not None else None, eps, zero_centered)
    grads = torch.autograd.grad(y, inputs, grad)
    return (*grads, None) if bias is None else grads


def statistics(x: torch.Tensor, has_mean: bool) -> list[torch.Tensor]:
    """Return what the kernels keep of each row beside `x`: the reciprocal of its deviation, and its
    mean, in float32. The stand-in computes them again, so they have no values.
    """
    rows = x.numel() // x.shape[-1]
    return [torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(1 + has_mean)]


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
