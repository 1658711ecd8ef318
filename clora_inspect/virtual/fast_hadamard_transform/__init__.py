"""Stand-in for the package fast_hadamard_transform: the one function that megatron-core calls.

`transformer/experimental_attention_variant/dsa.py` rotates the activations of sparse attention's
indexer with it. The original is a CUDA kernel.
"""

from __future__ import annotations

import torch


def hadamard_transform(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Return the Walsh-Hadamard transform of `x` `[..., size]` over the last dim, times `scale`.

    `size` is a power of two.
    """
    size = x.shape[-1]
    # Butterflies as in a fast Fourier transform: replace pairs at distance `half` by their sum and
    # difference, and double the distance.
    out = x.reshape(-1, size)
    half = 1
    while half < size:
        pairs = out.view(-1, size // (2 * half), 2, half)
        out = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), dim=2).reshape(-1, size)
        half *= 2
    return (out * scale).view_as(x)
