"""Draw the first values of A and B.

Every rank draws the whole matrix from the same random state and keeps its shard. So training starts
from the same matrix on every layout: shards of one matrix differ, copies of it agree, and its scale
does not depend on the number of ranks. (Drawing shards would let Xavier's and Kaiming's scale grow
with the ranks, because they depend on the size of what is drawn.)

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
    from collections.abc import Iterable, Sequence

NORMAL_STD = 0.2
"""Standard deviation of "normal", as in Megatron-Bridge. Jobs that use it train alike here."""


def draw_matrix(method: str, rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Draw one whole matrix `[rows, columns]` in fp32.

    Args:
        method: "xavier" is Glorot's normal distribution; "kaiming" He's uniform one with
            a = sqrt(5), which `torch.nn.Linear` uses; "normal" has the standard deviation
            `NORMAL_STD`; "zero" is a matrix of zeros.
        rows: rows of the whole matrix.
        columns: columns of the whole matrix.
        device: where the matrix is drawn. The values depend on it.

    Raises:
        LoRAConfigError: `method` is another word.
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
    sections: Sequence[int],
    destinations: Iterable[int | None],
) -> None:
    """Fill `weight`, this rank's shard of one matrix or of one matrix per expert.

    Args:
        weight: `[rows, columns]` or `[experts, rows, columns]`. On the meta device nothing is done.
        method: one of `clora.canonical_lora.INIT_METHODS`.
        matrix_shape: (rows, columns) of one whole matrix.
        split: (dim of the matrix counted from the right, rank, number of ranks) of the axis that
            splits it; None when every rank holds it whole.
        sections: sizes of the stretches of that dim that are split over the ranks one by one, such
            as those of gate and up; empty when the dim is one stretch.
        destinations: for every matrix of the whole model, in order, the index of its expert in
            `weight`; None when another rank holds it. That matrix is drawn all the same, so that
            the random states of all ranks stay equal.
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
                stretches = torch.split(matrix, list(sections), dim) if sections else (matrix,)
                matrix = torch.cat([stretch.chunk(ranks, dim)[rank] for stretch in stretches], dim)
            (weight if weight.dim() == 2 else weight[index]).copy_(matrix)


def _replicated_rng() -> AbstractContextManager[None]:
    """Return a context that draws from a random state that all ranks of a pipeline stage share."""
    from megatron.core.tensor_parallel import random

    # megatron-core's "data-parallel" state has the plain seed on every tensor- and expert-parallel
    # rank. `model_parallel_cuda_manual_seed` makes it; a job without that call seeds torch's own
    # state.
    tracker = random.get_cuda_rng_tracker()
    name = random.get_data_parallel_rng_tracker_name()
    if not tracker.is_initialized() or name not in tracker.get_states():
        return nullcontext()
    return tracker.fork(name)  # type: ignore[no-any-return]
