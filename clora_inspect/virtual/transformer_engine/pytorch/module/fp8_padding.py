"""Stand-in for `transformer_engine.pytorch.module.fp8_padding`.

A GEMM in FP8 needs a number of rows that is a multiple of 16, so each expert's rows are padded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ...missing import refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIGNMENT = 16
"""The default of `align_size`. The real class takes it from the recipe, here the default recipe."""


class Fp8Padding(torch.nn.Module):
    """Pad each of `num_gemms` groups of rows with zeros to a multiple of `align_size` rows."""

    def __init__(self, num_gemms: int, align_size: int | None = None) -> None:
        super().__init__()
        self.num_gemms = num_gemms
        self.align_size = align_size

    def forward(self, inp: torch.Tensor, m_splits: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Return the padded rows `[padded rows, H]` and the padded number of rows of each group.

        Args:
            inp: `[rows, H]`.
            m_splits: number of rows of each group.
        """
        align = self.align_size or ALIGNMENT
        padded = [-(-rows // align) * align for rows in m_splits]
        groups = torch.split(inp, list(m_splits))
        return torch.cat([F.pad(x, (0, 0, 0, rows - len(x))) for x, rows in zip(groups, padded, strict=True)]), padded


__getattr__ = refuse_unknown_names(__name__)
