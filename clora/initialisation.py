"""First values of A and B. Every rank draws the whole matrix and keeps its shard.

So the matrix that training starts from, and with it the scale of its entries, does not depend on
the layout: shards differ as they should, replicated factors agree, and a fan is the whole matrix's.
A factor is small enough to be drawn whole, one expert at a time.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch.nn import init

from clora.errors import LoRAConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

NORMAL_STD = 0.2
"""Standard deviation of `normal`: Megatron-Bridge's, whose configurations are meant to train the
same here.
"""


def draw_matrix(method: str, rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """One whole matrix `[rows, columns]` in fp32.

    `xavier` is Glorot's normal, `kaiming` He's uniform with a = sqrt(5) (what `torch.nn.Linear`
    starts from), `normal` has the standard deviation `NORMAL_STD`, `zero` draws nothing.

    Raises:
        LoRAConfigError: another `method`.
    """
    matrix = torch.zeros(rows, columns, dtype=torch.float32, device=device)
    if method == "xavier":
        init.xavier_normal_(matrix)
    elif method == "kaiming":
        init.kaiming_uniform_(matrix, a=math.sqrt(5))
    elif method == "normal":
        init.normal_(matrix, std=NORMAL_STD)
    elif method != "zero":
        raise LoRAConfigError(f"There is no initialisation {method!r}: write 'xavier', 'kaiming', 'normal' or 'zero'.")
    return matrix


@torch.no_grad()
def initialise(
    weight: torch.Tensor,
    method: str,
    *,
    matrix_shape: tuple[int, int],
    split: tuple[int, int, int] | None,
    halves: int,
    destinations: Iterable[int | None],
) -> None:
    """Fill `weight`, this rank's shard.

    Args:
        weight: `[rows, columns]` or `[experts, rows, columns]`; nothing is done on the meta device.
        method: one of `clora.canonical_lora.INIT_METHODS`.
        matrix_shape: (rows, columns) of a whole matrix.
        split: (dim of the matrix from the right, rank, ranks) of its axis; None when every rank
            keeps it whole.
        halves: how many equal stretches of that dim are split over the ranks each for itself: 2 for
            gate and up, else 1.
        destinations: for every matrix of the model, in order, the index of the expert in `weight` that
            it is; None for another rank's, which is drawn all the same, so that all ranks go on
            with the same random state.
    """
    if weight.is_meta:
        return
    if method == "zero":
        weight.zero_()
        return
    rows, columns = matrix_shape
    with _replicated_rng():
        for index in destinations:
            matrix = draw_matrix(method, rows, columns, weight.device)
            if index is None:
                continue
            if split is not None:
                dim, rank, ranks = split
                matrix = torch.cat([half.chunk(ranks, dim)[rank] for half in matrix.chunk(halves, dim)], dim)
            (weight if weight.dim() == 2 else weight[index]).copy_(matrix)


def _replicated_rng() -> AbstractContextManager[None]:
    """megatron-core's random state that is the same on all ranks of a pipeline stage; torch's own
    where it has none.
    """
    from megatron.core.tensor_parallel import random

    tracker = random.get_cuda_rng_tracker()
    name = random.get_data_parallel_rng_tracker_name()
    if not tracker.is_initialized() or name not in tracker.get_states():
        return nullcontext()
    return tracker.fork(name)  # type: ignore[no-any-return]
