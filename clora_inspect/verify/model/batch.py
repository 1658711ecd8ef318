"""Draw the input of a model: the same global batch on every layout, of which each data-parallel
rank takes its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = 4
"""Rows of the global batch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens `[rows, length]`; for a model without an embedding, hidden states
    `[length, rows, hidden]`.
    """

    tokens: torch.Tensor | None
    states: torch.Tensor | None = None
    handed_on: int | None = None
    """Tokens of a row in the states between pipeline stages, where a user's model hands on others
    than it is called with.
    """

    @property
    def states_length(self) -> int:
        """Number of tokens of a row inside the model."""
        return self.handed_on or self.length

    @property
    def length(self) -> int:
        """Number of tokens in a row."""
        if self.tokens is not None:
            return self.tokens.shape[1]
        return 0 if self.states is None else self.states.shape[0]

    def with_changed(self, positions: Sequence[int], vocabulary: int) -> Batch:
        """Return a copy with other tokens (or states) at these positions of every row."""
        if self.tokens is not None:
            tokens = self.tokens.clone()
            # Adding 1 gives another token in every case; a new draw might give the same one.
            tokens[:, list(positions)] = (tokens[:, list(positions)] + 1) % vocabulary
            return replace(self, tokens=tokens)
        states = self.states.clone() if self.states is not None else torch.empty(0)
        states[list(positions)] = states[list(positions)].neg()
        return Batch(None, states)

    def microbatches(self, count: int) -> list[Batch]:
        """Split the rows into `count` equal parts."""
        if self.tokens is None:
            return [self]
        return [replace(self, tokens=rows) for rows in self.tokens.chunk(count)]


def token_batch(length: int, vocabulary: int, seed: int, *, rows: int) -> Batch:
    """Draw a batch of `rows` x `length` tokens and return this data-parallel rank's rows of it; all
    rows where they do not divide over the ranks.
    """
    from megatron.core import parallel_state as mpu

    # Drawn on the CPU everywhere: a GPU's generator gives other numbers for the same seed.
    generator = torch.Generator(device="cpu").manual_seed(seed * 1000 + length)
    drawn = torch.randint(vocabulary, (rows, length), generator=generator, device="cpu")
    rank, ranks = mpu.get_data_parallel_rank(), mpu.get_data_parallel_world_size()
    if rows % ranks == 0:
        drawn = drawn.chunk(ranks)[rank]
    return Batch(drawn.to(torch.cuda.current_device()))


def state_batch(length: int, hidden: int, dtype: torch.dtype, seed: int, *, rows: int) -> Batch:
    """Draw hidden states `[length, rows, hidden]`, as a layer inside a model receives them."""
    generator = torch.Generator(device="cpu").manual_seed(seed * 1000 + length)
    drawn = torch.randn(length, rows, hidden, generator=generator, device="cpu")
    return Batch(None, drawn.to(dtype).to(torch.cuda.current_device()))
