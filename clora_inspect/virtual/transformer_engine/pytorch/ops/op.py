"""Stand-in for `transformer_engine.pytorch.ops.op`: base classes of fusible operations."""

from __future__ import annotations

import torch

from ...missing import refuse_unknown_names


class FusibleOperation(torch.nn.Module):
    """An operation that the real package can fuse with its neighbours."""


class BasicOperation(FusibleOperation):
    """A single operation with its own parameters."""

    def get_extra_state(self) -> torch.Tensor:
        """Return an empty state: the real one holds FP8 scales, and checkpoints have an entry."""
        return torch.empty(0, dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        """Ignore the state: without FP8 there is nothing to load it into."""


__getattr__ = refuse_unknown_names(__name__)
