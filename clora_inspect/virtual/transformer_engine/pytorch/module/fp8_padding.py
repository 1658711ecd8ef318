"""`Fp8Padding`: rows of each expert padded to what an FP8 GEMM can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ...missing import refusing

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIGNMENT = 16
"""Rows an FP8 GEMM wants a multiple of, when nobody says otherwise."""


class Fp8Padding(torch.nn.Module):
    """Pads each of `num_gemms` groups of rows with zeros up to a multiple of `align_size`."""

    def __init__(self, num_gemms: int, align_size: int | None = None) -> None:
        super().__init__()
        self.num_gemms = num_gemms
        self.align_size = align_size

    def forward(self, inp: torch.Tensor, m_splits: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """`[rows, hidden]` and rows per group -> `[padded rows, hidden]` and padded rows per group."""
        align = self.align_size or ALIGNMENT
        padded = [-(-rows // align) * align for rows in m_splits]
        groups = torch.split(inp, list(m_splits))
        return torch.cat([F.pad(x, (0, 0, 0, rows - len(x))) for x, rows in zip(groups, padded, strict=True)]), padded


__getattr__ = refusing(__name__)
