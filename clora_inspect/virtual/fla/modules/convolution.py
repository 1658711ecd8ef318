"""Stand-in for `fla.modules.convolution`: the short convolution of gated delta nets."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch.nn import functional as F


def causal_conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    activation: str | None = None,
    backend: str = "triton",
    cu_seqlens: torch.Tensor | None = None,
    **_options: object,
) -> tuple[torch.Tensor, None]:
    """Convolve each channel of `x` with its own weights, over the present and past positions.

    Args:
        x: `[batch, sequence, channels]`.
        weight: `[channels, width]`; the last column is the weight of the present position.
        bias: `[channels]` or None.
        residual: not supported.
        initial_state: not supported.
        output_final_state: not supported.
        activation: 'silu', 'swish' (another name of it) or None.
        backend: ignored: the name of a kernel.
        cu_seqlens: not supported: the bounds of packed sequences.

    Returns:
        `[batch, sequence, channels]`, and the last state, which is None.

    Raises:
        NotImplementedError: an option that is not supported is used.
    """
    if any(option is not None for option in (residual, initial_state, cu_seqlens)) or output_final_state:
        raise NotImplementedError("causal_conv1d with packed sequences, a residual or states computes on a GPU only.")
    channels, width = weight.shape
    x_BCS = F.pad(x.transpose(1, 2), (width - 1, 0))
    out = F.conv1d(x_BCS, weight.unsqueeze(1).to(x.dtype), bias, groups=channels).transpose(1, 2)
    return (F.silu(out) if activation in ("silu", "swish") else out), None


def causal_conv1d_update(*_args: object, **_options: object) -> NoReturn:
    raise NotImplementedError("fla's causal_conv1d_update computes on a GPU only.")
