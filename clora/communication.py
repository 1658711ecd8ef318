"""Move the tensors of an adapter between the ranks of its base's tensor-parallel axis.

One idea serves every kind of base: *gather the factor, not the activations*. A factor is `rank`
wide, an activation as wide as the model. With a whole A, the narrow `h = x A^T` is the only
activation that crosses the axis, and with a whole B none does:

    base         A                     h `[..., rank]`                                   B
    column       gathered              copied, or gathered with sequence parallelism     local rows
    row          local columns         summed, or summed and scattered with it           gathered
    duplicated   gathered              stays                                             gathered

Gradients flow through all of it, by megatron-core's own autograd functions: a copy sums its
gradient over the ranks.

Some bases leave their communication to other code (`Wiring.reduces_outside`), as routed experts
leave it to the token dispatcher. Their input gradients and outputs are partial sums. Those of the
adapter may then be partial sums as well, so `h` stays and only the factors are gathered.

The gradient of a gathered factor is either equal on all ranks, and each keeps its own rows of it.
Or it is partial, because each rank saw other tokens or other output rows, and is summed on the way
back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.linears import ParallelKind

if TYPE_CHECKING:
    import torch

    from clora.linears import Wiring

# megatron-core is imported when a tensor moves, here and in the other files of the adapters. It
# takes seconds to import, and a dry run has to put its stand-in for Transformer Engine in place
# before that.


@dataclass(frozen=True, slots=True)
class Communication:
    """The communication of the adapters in one linear.

    A is `[..., rank, in]` and B `[..., out, rank]`.
    """

    wiring: Wiring
    rows_cross_ranks: bool = False
    """True if the output rows of this rank need rows of B that other ranks hold. This happens with
    more tensor-parallel ranks than key-value groups.
    """

    def gather_a(self, a: torch.Tensor) -> torch.Tensor:
        """Return A with all rows; beside a row-parallel base, this rank's columns of them."""
        if self.wiring.size == 1 or self.wiring.kind is ParallelKind.ROW:
            return a
        return _gather_factor(a, self.wiring, partial=self._gradient_is_partial)

    def gather_b(self, b: torch.Tensor) -> torch.Tensor:
        """Return B with all rows; beside a column-parallel base, this rank's rows of it."""
        is_column = self.wiring.kind is ParallelKind.COLUMN
        if self.wiring.size == 1 or (is_column and not self.rows_cross_ranks):
            return b
        return _gather_factor(b, self.wiring, partial=self._gradient_is_partial or is_column)

    def scatter_input(self, x: torch.Tensor) -> torch.Tensor:
        """Return the columns of `x` that this rank's A multiplies, `[..., in]`."""
        if self.wiring.size == 1 or not self.wiring.splits_input:
            return x
        from megatron.core.tensor_parallel.mappings import scatter_to_tensor_model_parallel_region

        return scatter_to_tensor_model_parallel_region(x, group=self.wiring.group)  # type: ignore[no-any-return]

    def exchange_hidden(self, h: torch.Tensor) -> torch.Tensor:
        """Return `h = x A^T` `[..., rank]` as this rank's B has to multiply it."""
        wiring = self.wiring
        if wiring.size == 1 or wiring.reduces_outside or wiring.kind not in (ParallelKind.COLUMN, ParallelKind.ROW):
            return h
        from megatron.core.tensor_parallel import mappings

        exchanged: torch.Tensor
        if wiring.kind is ParallelKind.COLUMN and wiring.sequence_parallel:
            exchanged = mappings.gather_from_sequence_parallel_region(h, group=wiring.group)
        elif wiring.kind is ParallelKind.COLUMN:
            exchanged = mappings.copy_to_tensor_model_parallel_region(h, group=wiring.group)
        elif wiring.sequence_parallel:
            exchanged = mappings.reduce_scatter_to_sequence_parallel_region(h, group=wiring.group)
        else:
            # megatron-core sums a contiguous copy of its input and returns the input: without
            # `contiguous` here the sum would be lost.
            exchanged = mappings.reduce_from_tensor_model_parallel_region(h.contiguous(), group=wiring.group)
        return exchanged

    def gather_output(self, y: torch.Tensor) -> torch.Tensor:
        """Return a column-parallel output joined along its last dim.

        For a base that returns all of it, such as an output layer with `gather_output`.
        """
        if self.wiring.size == 1:
            return y
        from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region

        return gather_from_tensor_model_parallel_region(y, group=self.wiring.group)  # type: ignore[no-any-return]

    @property
    def _gradient_is_partial(self) -> bool:
        """True if the ranks see different tokens, so that each has one summand of a gradient."""
        return self.wiring.sequence_parallel or self.wiring.reduces_outside


def sum_gradient_over_experts(weight: torch.Tensor, wiring: Wiring) -> torch.Tensor:
    """Return `weight` itself; its gradient will be the sum over the expert-parallel ranks."""
    from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region

    # The function works for any group in spite of its name.
    return copy_to_tensor_model_parallel_region(weight, group=wiring.ep_group)  # type: ignore[no-any-return]


def _gather_factor(factor: torch.Tensor, wiring: Wiring, *, partial: bool) -> torch.Tensor:
    """Return the factor joined along its last dim but one, which is split over the ranks.

    With `partial` the gradient is summed over the ranks, otherwise each rank takes its own rows.
    """
    from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region

    # The function joins along the first dim. Of megatron-core's gathers it is the one that lets the
    # caller choose between the two gradients.
    by_rows = factor.transpose(0, -2).contiguous()
    joined: torch.Tensor = gather_from_sequence_parallel_region(
        by_rows, tensor_parallel_output_grad=partial, group=wiring.group
    )
    return joined.transpose(0, -2)
