"""The adapters: a pair of factors A and B, and what they add to the output of the linear beside
them.

Shapes: x `[..., in]`, A (`linear_in`) `[rank, in]`, h = scale x A^T `[..., rank]`, B (`linear_out`)
`[out, rank]`, delta = h B^T `[..., out]`; with a leading `experts` dim in A and B when every expert
has a pair of its own. How A and B lie over the ranks is the plan's (`Placement.a_axes`), what is
communicated is `clora.communication`'s.

An adapter is parameters and arithmetic. It stands inside its base (`clora.wrappers`), which calls
it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from clora.communication import Communication, sum_gradient_over_experts
from clora.initialisation import initialise
from clora.linears import ParallelKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from clora.linears import Wiring
    from clora.plan import ExpertFacts, Placement


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout inside an adapter: of its input ("pre") or of its output ("post")."""

    probability: float = 0.0
    position: Literal["pre", "post"] = "pre"

    def apply_to_input(self, x: torch.Tensor, wiring: Wiring, *, training: bool) -> torch.Tensor:
        """`x`, dropped where that is asked for."""
        if self.position != "pre" or not training or not self.probability:
            return x
        with _dropout_rng(wiring, ranks_differ=wiring.kind is ParallelKind.ROW or wiring.sequence_parallel):
            return F.dropout(x, self.probability)

    def apply_to_output(self, delta: torch.Tensor, wiring: Wiring, *, training: bool) -> torch.Tensor:
        """`delta`, dropped where that is asked for."""
        if self.position != "post" or not training or not self.probability:
            return delta
        with _dropout_rng(wiring, ranks_differ=wiring.kind is ParallelKind.COLUMN or wiring.sequence_parallel):
            return F.dropout(delta, self.probability)


class Factor(nn.Module):
    """One factor, A or B, as this rank holds it. Calling it gives the weight.

    It is a module of its own and is called, not reached into, because megatron-core's overlapped
    parameter gather waits in a forward hook of the module that owns a parameter.

    Attributes:
        global_shape, axes: of the whole matrix, and the mesh axis that splits each of its dims.
        is_gate_and_up: a B beside a gated `linear_fc1` that is adapted as a whole. Its rows are
            gate and up one after the other, and so are each rank's: the shard of rank r is the r-th
            part of the gate rows, then the r-th part of the up rows.
    """

    def __init__(
        self,
        *,
        global_shape: tuple[int, ...],
        local_shape: tuple[int, ...],
        axes: tuple[str | None, ...],
        init_method: str,
        wiring: Wiring,
        experts: ExpertFacts | None,
        is_gate_and_up: bool = False,
    ) -> None:
        super().__init__()
        self.is_gate_and_up = is_gate_and_up
        self.global_shape = global_shape
        self.axes = axes
        self.init_method = init_method
        self.wiring = wiring
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(local_shape, dtype=wiring.dtype, device=wiring.device))
        self._mark_for_reduction()
        self.reset_parameters()

    @property
    def split_dim(self) -> int | None:
        """The dim that is split over tensor-parallel ranks (tp, or etp in experts); None when every
        rank holds all of it.
        """
        return next((dim for dim, axis in enumerate(self.axes) if axis in ("tp", "etp")), None)

    @property
    def is_shared_by_experts(self) -> bool:
        """Whether one matrix serves the experts of all expert-parallel ranks, each of which holds a
        copy.
        """
        return self.experts is not None and not self.experts.per_expert

    def reset_parameters(self) -> None:
        """Draw the first values (anew)."""
        wiring = self.wiring
        dims = len(self.global_shape)
        initialise(
            self.weight,
            self.init_method,
            matrix_shape=(self.global_shape[-2], self.global_shape[-1]),
            split=None if self.split_dim is None else (self.split_dim - dims, wiring.rank, wiring.size),
            halves=2 if self.is_gate_and_up else 1,
            destinations=self._destinations(),
        )

    def forward(self) -> torch.Tensor:
        """This rank's shard."""
        if self._is_summed_over_experts:
            return sum_gradient_over_experts(self.weight, self.wiring)
        return self.weight

    def extra_repr(self) -> str:
        """What `print(model)` says."""
        return f"{list(self.weight.shape)} of {list(self.global_shape)}"

    @property
    def _is_summed_over_experts(self) -> bool:
        """Copies on expert-parallel ranks that no data-parallel group spans: their gradients are
        summed here.
        """
        return self.is_shared_by_experts and self.wiring.ep_group is not None and not self.wiring.etp_is_tp

    def _destinations(self) -> list[int | None]:
        """For every matrix of the model that this factor is a part of: the expert here that it
        belongs to, None for none.
        """
        facts, wiring = self.experts, self.wiring
        if facts is None or not facts.per_expert:
            return [0]
        if len(self.global_shape) == 2:  # A sequential expert: one of `ep` modules that stand at this place.
            return [0 if rank == wiring.ep_rank else None for rank in range(wiring.ep_size)]
        first = wiring.ep_rank * facts.num_local_experts
        return [
            expert - first if 0 <= expert - first < facts.num_local_experts else None
            for expert in range(facts.num_experts)
        ]

    def _mark_for_reduction(self) -> None:
        """Set the attributes by which megatron-core decides over which ranks a gradient is reduced
        and whose norm counts.

        A pair shared by the experts of all ranks is, over the ranks, a dense parameter when etp =
        tp. Otherwise no dense group fits: it is reduced like an expert's, over the expert
        data-parallel group, and over the expert-parallel one in its backward; its copies but the
        first are marked `shared`, so that the norm counts one.
        """
        weight: Any = self.weight
        weight.tensor_model_parallel = self.split_dim is not None
        weight.partition_dim = -1 if self.split_dim is None else self.split_dim
        weight.partition_stride = 1
        weight.allreduce = self.experts is None or (self.is_shared_by_experts and self.wiring.etp_is_tp)
        weight.sequence_parallel = self.split_dim is None and self.wiring.marks_sequence_parallel
        if self._is_summed_over_experts and self.wiring.ep_rank:
            weight.shared = True


class Adapter(nn.Module):
    """A pair of factors and its scale. The three kinds differ in how their forward multiplies."""

    def __init__(
        self,
        placement: Placement,
        wiring: Wiring,
        *,
        dropout: Dropout,
        a_init_method: str,
        b_init_method: str,
        rows_cross_ranks: bool = False,
        is_gate_and_up: bool = False,
    ) -> None:
        super().__init__()
        self.dim = placement.dim
        self.alpha = placement.alpha
        self.dropout = dropout
        self.communication = Communication(wiring, rows_cross_ranks)
        self.linear_in = Factor(
            global_shape=placement.a_global_shape,
            local_shape=placement.a_shape,
            axes=placement.a_axes,
            init_method=a_init_method,
            wiring=wiring,
            experts=placement.experts,
        )
        self.linear_out = Factor(
            global_shape=placement.b_global_shape,
            local_shape=placement.b_shape,
            axes=placement.b_axes,
            init_method=b_init_method,
            wiring=wiring,
            experts=placement.experts,
            is_gate_and_up=is_gate_and_up,
        )

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by: alpha / dim."""
        return self.alpha / self.dim

    @property
    def wiring(self) -> Wiring:
        """How the base beside it communicates."""
        return self.communication.wiring

    def extra_repr(self) -> str:
        """What `print(model)` says."""
        dropout = f", dropout={self.dropout.probability} {self.dropout.position}" if self.dropout.probability else ""
        return f"dim={self.dim}, alpha={self.alpha}{dropout}"


class ParallelLinearAdapter(Adapter):
    """The adapter of a megatron-core linear: column, row or duplicated, and of grouped experts that
    share one pair.
    """

    def forward(self, x: torch.Tensor, *_splits: Any) -> torch.Tensor:
        """`[..., in]` -> delta `[..., out]`, as the base's own output lies."""
        (h,) = shared_hidden([self], x)
        return self.delta(h)

    def delta(self, h: torch.Tensor, rows: slice | None = None) -> torch.Tensor:
        """The product h B^T, for all output rows that this rank has; with `rows`, for those of the
        whole B.
        """
        b = self.communication.gather_b(self.linear_out())
        if rows is not None:
            b = b[rows]
        return self.dropout.apply_to_output(F.linear(h, b.to(h.dtype)), self.wiring, training=self.training)

    def logits(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`[..., hidden]` -> what a router adds to its logits, computed in `dtype` as the router
        itself does.
        """
        from megatron.core.transformer.moe.moe_utils import router_gating_linear

        x = self.dropout.apply_to_input(x, self.wiring, training=self.training)
        a = self.communication.gather_a(self.linear_in())
        return self.delta(router_gating_linear(x, a, None, dtype) * self.scale)


class LinearAdapter(ParallelLinearAdapter):
    """The adapter of a plain `torch.nn.Linear`: no axis, no communication."""


class GroupedExpertLinearAdapter(Adapter):
    """The adapters of grouped experts, one pair each. Shapes: A `[experts, rank, in]`, B
    `[experts, out, rank]`.
    """

    def forward(self, x: torch.Tensor, splits: Sequence[int]) -> torch.Tensor:
        """Rows sorted by expert `[rows, in]` -> delta `[rows, out]`; the first `splits[0]` rows
        meet expert 0, and so on.
        """
        a = self.communication.gather_a(self.linear_in())
        b = self.communication.gather_b(self.linear_out())
        x = self.dropout.apply_to_input(x, self.wiring, training=self.training)
        rows = torch.split(x.to(a.dtype), [int(size) for size in splits])
        deltas = [
            F.linear(F.linear(rows_e, a_e) * self.scale, b_e) for rows_e, a_e, b_e in zip(rows, a, b, strict=True)
        ]
        return self.dropout.apply_to_output(torch.cat(deltas), self.wiring, training=self.training)


def shared_hidden(adapters: Sequence[ParallelLinearAdapter], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The h of each adapter beside one base. They meet the same `x`, so they drop it once, multiply
    once and communicate once.
    """
    first = adapters[0]
    communication = first.communication
    x = communication.scatter_input(x)
    x = first.dropout.apply_to_input(x, first.wiring, training=first.training)
    weights = [adapter.linear_in() for adapter in adapters]
    a = communication.gather_a(weights[0] if len(weights) == 1 else torch.stack(weights))
    h = F.linear(x.to(a.dtype), a if a.dim() == 2 else a.flatten(0, 1)) * first.scale
    return torch.split(communication.exchange_hidden(h), [adapter.dim for adapter in adapters], dim=-1)


def _dropout_rng(wiring: Wiring, *, ranks_differ: bool) -> AbstractContextManager[None]:
    """The random state for a dropout mask: the one in use where the ranks of the axis need the same
    mask, else one of their own.

    Experts always draw from their own: they see another number of rows on every rank, after which
    the common state would differ.
    """
    if not wiring.is_expert and not (ranks_differ and wiring.size > 1):
        return nullcontext()
    from megatron.core.tensor_parallel import random

    tracker = random.get_cuda_rng_tracker()
    if not tracker.is_initialized():
        return nullcontext()
    return tracker.fork(random.get_expert_parallel_rng_tracker_name()) if wiring.is_expert else tracker.fork()  # type: ignore[no-any-return]
