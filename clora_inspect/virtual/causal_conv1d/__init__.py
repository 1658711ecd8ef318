"""Stand-in for causal_conv1d: a short convolution over the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from torch.nn import functional as F

if TYPE_CHECKING:
    import torch

__version__ = "1.5.3"


def causal_conv1d_fn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    seq_idx: torch.Tensor | None = None,
    initial_states: torch.Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: torch.Tensor | None = None,
    activation: str | None = None,
) -> torch.Tensor:
    """Each channel of `[batch, channels, sequence]` convolved with its `width` weights
    `[channels, width]`.
    """
    if seq_idx is not None or initial_states is not None or return_final_states:
        raise NotImplementedError("causal_conv1d_fn with packed sequences or states computes on a GPU only.")
    channels, width = weight.shape
    out = F.conv1d(F.pad(x, (width - 1, 0)), weight.unsqueeze(1).to(x.dtype), bias, groups=channels)
    return F.silu(out) if activation in ("silu", "swish") else out


def causal_conv1d_update(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("causal_conv1d.causal_conv1d_update computes on a GPU only.")
