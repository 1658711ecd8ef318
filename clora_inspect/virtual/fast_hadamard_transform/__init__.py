"""Stand-in for fast_hadamard_transform, which sparse attention's indexer rotates its activations
with.
"""

from __future__ import annotations

import torch


def hadamard_transform(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The Walsh-Hadamard transform over the last dim, whose size is a power of two."""
    size = x.shape[-1]
    out = x.reshape(-1, size)
    half = 1
    while half < size:
        pairs = out.view(-1, size // (2 * half), 2, half)
        out = torch.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), dim=2).reshape(-1, size)
        half *= 2
    return (out * scale).view_as(x)
