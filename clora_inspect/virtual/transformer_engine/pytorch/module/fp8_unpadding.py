"""Stand-in for `transformer_engine.pytorch.module.fp8_unpadding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...missing import refuse_unknown_names
from .fp8_padding import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Sequence


class Fp8Unpadding(torch.nn.Module):
    """Remove the rows that `Fp8Padding` added at the end of each of `num_gemms` groups."""

    def __init__(self, num_gemms: int, align_size: int | None = None) -> None:
        super().__init__()
        self.num_gemms = num_gemms
        self.align_size = align_size

    def forward(self, inp: torch.Tensor, m_splits: Sequence[int]) -> torch.Tensor:
        """Return the rows without the padding `[rows, H]`.

        Args:
            inp: `[padded rows, H]`.
            m_splits: number of rows of each group without the padding.
        """
        align = self.align_size or ALIGNMENT
        groups = torch.split(inp, [-(-rows // align) * align for rows in m_splits])
        return torch.cat([x[:rows] for x, rows in zip(groups, m_splits, strict=True)])


__getattr__ = refuse_unknown_names(__name__)
