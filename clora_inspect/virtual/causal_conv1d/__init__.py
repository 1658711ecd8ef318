"""Stand-in for causal_conv1d: the short convolution of Mamba mixers and gated delta nets. The
original is a CUDA kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from torch.nn import functional as F

if TYPE_CHECKING:
    import torch

__version__ = "1.5.3"
"""The release whose signatures the stand-in has. `is_causal_conv1d_min_version` of megatron-core
reads it to decide whether packed sequences are supported.
"""


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
    """Convolve each channel of `x` with its own weights, over the present and past positions.

    Args:
        x: `[batch, channels, sequence]`.
        weight: `[channels, width]`; the last column is the weight of the present position.
        bias: `[channels]` or None.
        seq_idx: not supported: sequence number of each position if sequences are packed.
        initial_states: not supported.
        return_final_states: not supported.
        final_states_out: ignored, as in the original without `return_final_states`.
        activation: 'silu', 'swish' (another name of it) or None.

    Returns:
        `[batch, channels, sequence]`.

    Raises:
        NotImplementedError: an option that is not supported is used.
    """
    if seq_idx is not None or initial_states is not None or return_final_states:
        raise NotImplementedError("causal_conv1d_fn with packed sequences or states computes on a GPU only.")
    channels, width = weight.shape
    out = F.conv1d(F.pad(x, (width - 1, 0)), weight.unsqueeze(1).to(x.dtype), bias, groups=channels)
    return F.silu(out) if activation in ("silu", "swish") else out


def causal_conv1d_update(*_args: object, **_options: object) -> NoReturn:
    raise NotImplementedError("causal_conv1d.causal_conv1d_update computes on a GPU only.")
