"""Base of the fusible operations."""

from __future__ import annotations

import torch

from ...missing import refusing


class FusibleOperation(torch.nn.Module):
    """An operation that Transformer Engine could fuse with its neighbours. Here it is a module like
    any other.
    """


class BasicOperation(FusibleOperation):
    """A single operation with its own parameters."""

    def get_extra_state(self) -> torch.Tensor:
        """The FP8 state for a checkpoint: empty."""
        return torch.empty(0, dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        """Nothing to load."""


__getattr__ = refusing(__name__)
