"""What goes into a model: the same global batch on every layout, each data-parallel rank its rows
of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = 4
"""Rows of the global batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens `[rows, length]`, or hidden states `[length, rows, hidden]` for a model without an
    embedding.
    """

    tokens: torch.Tensor | None
    states: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens in a row."""
        if self.tokens is not None:
            return self.tokens.shape[1]
        return 0 if self.states is None else self.states.shape[0]

    def with_another(self, positions: Sequence[int], vocabulary: int) -> Batch:
        """The same with other tokens (or states) at these positions of every row."""
        if self.tokens is not None:
            tokens = self.tokens.clone()
            tokens[:, list(positions)] = (tokens[:, list(positions)] + 1) % vocabulary
            return Batch(tokens)
        states = self.states.clone() if self.states is not None else torch.empty(0)
        states[list(positions)] = states[list(positions)].neg()
        return Batch(None, states)

    def microbatches(self, count: int) -> list[Batch]:
        """The rows in `count` equal portions."""
        if self.tokens is None:
            return [self]
        return [Batch(rows) for rows in self.tokens.chunk(count)]


def tokens(length: int, vocabulary: int, seed: int, *, rows: int = ROWS) -> Batch:
    """The rows that this data-parallel rank has of the batch of `length` tokens; all of them where
    there are fewer rows than ranks.
    """
    from megatron.core import parallel_state as mpu

    generator = torch.Generator(device="cpu").manual_seed(seed * 1000 + length)
    drawn = torch.randint(vocabulary, (rows, length), generator=generator, device="cpu")
    rank, ranks = mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size()
    if rows % ranks == 0:
        drawn = drawn.chunk(ranks)[rank]
    return Batch(drawn.to(torch.cuda.current_device()))


def states(length: int, hidden: int, dtype: torch.dtype, seed: int, *, rows: int = 2) -> Batch:
    """Hidden states as a layer in the middle of a model gets them."""
    generator = torch.Generator(device="cpu").manual_seed(seed * 1000 + length)
    drawn = torch.randn(length, rows, hidden, generator=generator, device="cpu")
    return Batch(None, drawn.to(dtype).to(torch.cuda.current_device()))
