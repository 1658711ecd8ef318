"""What an adapter says to the other ranks of its axis. All of it inside autograd, through
megatron-core's own functions.

One idea serves every kind of base: **gather the factor, not the activations**. A factor is `rank`
wide; an activation is as wide as the model. With a whole A, the narrow `h = x A^T` is the only
activation that crosses the axis, and with a whole B nothing does:

    base          A                       h `[..., rank]`                          B
    column        gathered                copied (grad summed); sp: gathered       this rank's rows
    row           this rank's columns     summed; sp: summed and scattered         gathered
    duplicated    gathered                stays                                    gathered
    outside       as column or row        stays                                    as column or row

"sp" is sequence parallelism, where `x` (or the row's output) is one rank's part of the sequence.
"Outside" is a base whose communication somebody else does (routed experts: the token dispatcher):
its input gradients and outputs are partial sums there, so those of the adapter are partial too, and
all that is left to do is to gather the factors.

The gradient of a gathered factor is either the same on every rank, which then keeps its rows, or
partial (every rank saw other tokens or other output rows), and then it is summed on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.linears import ParallelKind

if TYPE_CHECKING:
    import torch

    from clora.linears import Wiring


@dataclass(frozen=True, slots=True)
class Communication:
    """The communication of the adapters beside one linear. Shapes: A `[..., rank, in]`, B
    `[..., out, rank]`.
    """

    wiring: Wiring
    rows_cross_ranks: bool = False
    """This rank's output rows belong, in part, to rows of B that other ranks hold: more ranks than
    key-value groups.
    """

    def gather_a(self, a: torch.Tensor) -> torch.Tensor:
        """A as the matmul needs it: all of the rank dim."""
        if self.wiring.size == 1 or self.wiring.kind is ParallelKind.ROW:
            return a
        return _gather_factor(a, self.wiring, partial=self._gradient_is_partial)

    def gather_b(self, b: torch.Tensor) -> torch.Tensor:
        """B as the matmul needs it: this rank's rows beside a column-parallel base, all rows
        elsewhere.
        """
        if self.wiring.size == 1 or (self.wiring.kind is ParallelKind.COLUMN and not self.rows_cross_ranks):
            return b
        return _gather_factor(
            b, self.wiring, partial=self._gradient_is_partial or self.wiring.kind is ParallelKind.COLUMN
        )

    def scatter_input(self, x: torch.Tensor) -> torch.Tensor:
        """The input as A meets it."""
        if self.wiring.size == 1 or not self.wiring.splits_input:
            return x
        from megatron.core.tensor_parallel.mappings import scatter_to_tensor_model_parallel_region

        return scatter_to_tensor_model_parallel_region(x, group=self.wiring.group)  # type: ignore[no-any-return]

    def exchange_hidden(self, h: torch.Tensor) -> torch.Tensor:
        """`h` as B meets it."""
        wiring = self.wiring
        if wiring.size == 1 or wiring.reduces_outside or wiring.kind not in (ParallelKind.COLUMN, ParallelKind.ROW):
            return h
        from megatron.core.tensor_parallel import mappings

        moved: torch.Tensor
        if wiring.kind is ParallelKind.COLUMN and wiring.sequence_parallel:
            moved = mappings.gather_from_sequence_parallel_region(h, group=wiring.group)
        elif wiring.kind is ParallelKind.COLUMN:
            moved = mappings.copy_to_tensor_model_parallel_region(h, group=wiring.group)
        elif wiring.sequence_parallel:
            moved = mappings.reduce_scatter_to_sequence_parallel_region(h, group=wiring.group)
        else:
            moved = mappings.reduce_from_tensor_model_parallel_region(h.contiguous(), group=wiring.group)
        return moved

    def gather_output(self, y: torch.Tensor) -> torch.Tensor:
        """A column-parallel output joined along its last dim, for a base that hands out all of it
        (an output layer).
        """
        if self.wiring.size == 1:
            return y
        from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region

        return gather_from_tensor_model_parallel_region(y, group=self.wiring.group)  # type: ignore[no-any-return]

    @property
    def _gradient_is_partial(self) -> bool:
        """Whether a gathered factor's gradient is this rank's part of a sum."""
        return self.wiring.sequence_parallel or self.wiring.reduces_outside


def sum_gradient_over_experts(weight: torch.Tensor, wiring: Wiring) -> torch.Tensor:
    """A factor that all expert-parallel ranks share: the same tensor, its gradient summed over
    them.
    """
    from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region

    return copy_to_tensor_model_parallel_region(weight, group=wiring.ep_group)  # type: ignore[no-any-return]


def _gather_factor(factor: torch.Tensor, wiring: Wiring, *, partial: bool) -> torch.Tensor:
    """The factor joined along its last dim but one, which is the dim that A and B are split along
    when they are gathered.
    """
    from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region

    by_rows = factor.transpose(0, -2).contiguous()
    whole: torch.Tensor = gather_from_sequence_parallel_region(
        by_rows, tensor_parallel_output_grad=partial, group=wiring.group
    )
    return whole.transpose(0, -2)
