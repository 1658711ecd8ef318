"""The adapters: pairs of factors A and B, and the delta that they add to a linear's output.

Shapes, with `S` any leading dims of the activations:

    x      [S, in]
    A      [rank, in]     `linear_in`
    h      [S, rank]      scale * x A^T
    B      [out, rank]    `linear_out`
    delta  [S, out]       h B^T

A and B have a leading `experts` dim when every expert has a pair of its own. The plan says how the
factors are split over the ranks (`Placement.a_axes`), `clora.communication` what is communicated.

An adapter is parameters and arithmetic. It is a child of its base, whose forward calls it
(`clora.wrappers`). Names of classes and parameters are those of Megatron-Bridge.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import nn
from torch.nn import functional as F

from clora.communication import Communication, sum_gradient_over_experts
from clora.initialisation import initialise
from clora.linears import ParallelKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from clora.fused import Sections
    from clora.linears import Wiring
    from clora.plan import ExpertFacts, Placement


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout inside an adapter, of its input ("pre") or of its output ("post")."""

    probability: float = 0.0
    position: Literal["pre", "post"] = "pre"

    @property
    def p(self) -> float:
        """`probability`, by the name that torch's dropout has for it."""
        return self.probability

    def apply_to_input(self, x: torch.Tensor, wiring: Wiring, *, training: bool) -> torch.Tensor:
        """Return the input `x` `[..., in]`, with dropout if it belongs here."""
        if self.position != "pre" or not training or not self.probability:
            return x
        # The ranks hold different columns of a row-parallel input, or different tokens.
        with _dropout_rng(wiring, ranks_differ=wiring.kind is ParallelKind.ROW or wiring.sequence_parallel):
            return F.dropout(x, self.probability)

    def apply_to_output(self, delta: torch.Tensor, wiring: Wiring, *, training: bool) -> torch.Tensor:
        """Return `delta` `[..., out]`, with dropout if it belongs here."""
        if self.position != "post" or not training or not self.probability:
            return delta
        # The ranks hold different columns of a column-parallel output, or different tokens.
        with _dropout_rng(wiring, ranks_differ=wiring.kind is ParallelKind.COLUMN or wiring.sequence_parallel):
            return F.dropout(delta, self.probability)


class Factor(nn.Module):
    """One factor, A or B, as this rank holds it. Call it without an argument to get the weight.

    It is a module that is called, and not a parameter of the adapter, because megatron-core's
    `overlap_param_gather` waits for a parameter in a forward pre-hook of the module that owns it.

    Attributes:
        weight: this rank's shard.
        global_shape: shape of the full matrix.
        axes: mesh axis that splits each dim of it; None for a dim that is not split.
        sections: the sections of the rows of a B whose base packs several into one weight, such as
            gate and up. The full matrix has all rows of the first, then all rows of the second.
            Rank r holds the r-th part of each section, as the base does. Empty for any other.
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
        sections: Sections = (),
    ) -> None:
        super().__init__()
        self.sections = sections
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
        """Index of the dim that is split over tp (etp in experts); None when none is."""
        return next((dim for dim, axis in enumerate(self.axes) if axis in ("tp", "etp")), None)

    @property
    def is_shared_by_experts(self) -> bool:
        """True if the experts of all ranks share the matrix, so that each rank has a copy of it."""
        return self.experts is not None and not self.experts.per_expert

    def reset_parameters(self) -> None:
        """Draw the first values again."""
        wiring = self.wiring
        dims = len(self.global_shape)
        initialise(
            self.weight,
            self.init_method,
            matrix_shape=(self.global_shape[-2], self.global_shape[-1]),
            split=None if self.split_dim is None else (self.split_dim - dims, wiring.rank, wiring.size),
            sections=[rows for _, rows in self.sections],
            destinations=self._destinations(),
        )

    @property
    def tensor_model_parallel(self) -> bool:
        """True if the weight is split over ranks. Megatron-FSDP and Megatron-Bridge read this and
        `partition_dim` of a module whose class they do not know.
        """
        return self.split_dim is not None

    @property
    def partition_dim(self) -> int:
        """Index of the dim that is split over ranks; -1 when none is."""
        return -1 if self.split_dim is None else self.split_dim

    @overload
    def forward(self) -> torch.Tensor: ...

    @overload
    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, None]: ...

    def forward(self, x: torch.Tensor | None = None) -> torch.Tensor | tuple[torch.Tensor, None]:
        """Return the weight, or the product of `x` with it.

        Args:
            x: `[..., columns]` of the shard that this rank holds. Nothing is exchanged between
                ranks.

        Returns:
            The weight. With `x`, the product `[..., rows]`: alone beside a linear of torch's, else
            with None for the bias, as megatron-core's linears return it.
        """
        weight = sum_gradient_over_experts(self.weight, self.wiring) if self._is_summed_over_experts else self.weight
        if x is None:
            return weight
        product = F.linear(x.to(weight.dtype), weight)
        return product if self.wiring.kind is ParallelKind.PLAIN else (product, None)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)} of {list(self.global_shape)}"

    @property
    def _is_summed_over_experts(self) -> bool:
        """True if the gradient of a shared matrix has to be summed over the experts' ranks here.

        With etp = tp, megatron-core's data-parallel group covers the expert-parallel ranks and
        sums it. Otherwise no group of a dense parameter covers them.
        """
        return self.is_shared_by_experts and self.wiring.ep_group is not None and not self.wiring.etp_is_tp

    def _destinations(self) -> list[int | None]:
        """Return, for every matrix that this factor has in the whole model, the local expert that
        holds it, or None when another rank does.
        """
        facts, wiring = self.experts, self.wiring
        if facts is None or not facts.per_expert:
            return [0]
        if len(self.global_shape) == 2:
            # A sequential expert: each of the `ep` ranks has a module at this path.
            return [0 if rank == wiring.ep_rank else None for rank in range(wiring.ep_size)]
        first = wiring.ep_rank * facts.num_local_experts
        return [
            expert - first if 0 <= expert - first < facts.num_local_experts else None
            for expert in range(facts.num_experts)
        ]

    def _mark_for_reduction(self) -> None:
        """Set the attributes by which megatron-core reduces gradients and counts their norm.

        A pair that all experts share is reduced as a dense parameter when etp = tp. Otherwise it is
        reduced over the expert data-parallel group, as an expert's parameter, and its own backward
        sums over the expert-parallel group (`_is_summed_over_experts`).
        """
        weight: Any = self.weight
        # Split over tensor parallelism: every rank's shard counts in the norm.
        weight.tensor_model_parallel = self.tensor_model_parallel
        weight.partition_dim = self.partition_dim
        weight.partition_stride = 1
        # True: reduce over the data-parallel group; False: over the expert data-parallel one.
        weight.allreduce = self.experts is None or (self.is_shared_by_experts and self.wiring.etp_is_tp)
        # `finalize_model_grads` sums over tp: each rank saw its own part of the sequence.
        weight.sequence_parallel = self.split_dim is None and self.wiring.marks_sequence_parallel
        # The norm skips `shared` parameters, so that the equal copies of the experts count once.
        if self._is_summed_over_experts and self.wiring.ep_rank:
            weight.shared = True


class Adapter(nn.Module):
    """Base class: a pair of factors and its scale. Subclasses differ in how they multiply.

    Attributes:
        dim: LoRA rank.
        alpha: numerator of the scale.
        base_linear_name: path of the base in its model.
        dropout: where and how often values are dropped.
        communication: how the tensors of the adapter move between the ranks.
        linear_in: the factor A.
        linear_out: the factor B.
    """

    def __init__(
        self,
        placement: Placement,
        wiring: Wiring,
        *,
        dropout: Dropout,
        a_init_method: str,
        b_init_method: str,
        rows_cross_ranks: bool = False,
        sections: Sections = (),
    ) -> None:
        super().__init__()
        self.dim = placement.dim
        self.alpha = placement.alpha
        self.base_linear_name = placement.module
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
            sections=sections,
        )

    @property
    def scale(self) -> float:
        """Factor of the product B A: alpha / dim."""
        return self.alpha / self.dim

    @property
    def wiring(self) -> Wiring:
        return self.communication.wiring

    @property
    def dropout_position(self) -> Literal["pre", "post"]:
        """Where dropout happens; Megatron-Bridge's adapters have it under this name."""
        return self.dropout.position

    @property
    def input_is_parallel(self) -> bool:
        """True beside a row-parallel base, whose input is split. Megatron-Bridge reads it."""
        return self.wiring.kind is ParallelKind.ROW

    @property
    def base_linear_is_parallel(self) -> bool:
        """True if the ranks split the base's weight, or the factors beside a weight that is whole.
        Megatron-Bridge's export gathers the factors then.
        """
        return self.wiring.kind in (ParallelKind.COLUMN, ParallelKind.ROW) or (
            self.wiring.size > 1 and self.linear_out.split_dim is not None
        )

    def extra_repr(self) -> str:
        dropout = f", dropout={self.dropout.probability} {self.dropout.position}" if self.dropout.probability else ""
        return f"dim={self.dim}, alpha={self.alpha}{dropout}"


class ParallelLinearAdapter(Adapter):
    """The adapter of a megatron-core linear or router, or of experts that share one pair."""

    def forward(self, x: torch.Tensor, *_arguments: Any, **_named: Any) -> torch.Tensor:
        """Return the delta `[..., out]` of `x` `[..., in]`, split as the base's output is.

        Other arguments are those of the base, such as the number of rows per expert.
        """
        (h,) = shared_hidden([self], x)
        return self.delta(h)

    def delta(self, h: torch.Tensor, rows: slice | None = None) -> torch.Tensor:
        """Return the delta h B^T `[..., out]` of `h` `[..., rank]`.

        Args:
            h: what `shared_hidden` returns for this adapter.
            rows: rows of the full B to use; None for all rows that this rank has.
        """
        b = self.communication.gather_b(self.linear_out())
        if rows is not None:
            b = b[rows]
        return self.dropout.apply_to_output(F.linear(h, b.to(h.dtype)), self.wiring, training=self.training)

    def logits(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return what a router adds to its logits, `[..., experts]` in `dtype`.

        Args:
            x: input of the router, `[..., hidden]`.
            dtype: dtype of the router's own logits (`moe_router_dtype`).
        """
        from megatron.core.transformer.moe.moe_utils import router_gating_linear

        x = self.dropout.apply_to_input(x, self.wiring, training=self.training)
        a = self.communication.gather_a(self.linear_in())
        # The router's own product: it takes bf16 inputs and computes in `dtype`.
        return self.delta(router_gating_linear(x, a, None, dtype) * self.scale)


class LinearAdapter(ParallelLinearAdapter):
    """The adapter of a `torch.nn.Linear`, which is not parallel and so communicates nothing."""


class GroupedExpertLinearAdapter(Adapter):
    """The adapters of grouped experts with one pair each.

    A is `[experts, rank, in]` and B `[experts, out, rank]`, for the experts of this rank.
    """

    def forward(self, x: torch.Tensor, m_splits: Sequence[int]) -> torch.Tensor:
        """Return the delta `[rows, out]`.

        Args:
            x: `[rows, in]`, sorted by expert.
            m_splits: number of rows of each local expert; 0 is possible. The name is Transformer
                Engine's, because callers may give it by name.
        """
        a = self.communication.gather_a(self.linear_in())
        b = self.communication.gather_b(self.linear_out())
        x = self.dropout.apply_to_input(x, self.wiring, training=self.training)
        rows = torch.split(x.to(a.dtype), [int(size) for size in m_splits])
        deltas = [
            F.linear(F.linear(rows_e, a_e) * self.scale, b_e) for rows_e, a_e, b_e in zip(rows, a, b, strict=True)
        ]
        return self.dropout.apply_to_output(torch.cat(deltas), self.wiring, training=self.training)


def shared_hidden(adapters: Sequence[ParallelLinearAdapter], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return `h = scale * x A^T` `[..., rank]` of every adapter in one linear.

    The adapters of q, k and v read the same `x`. They share one dropout mask, one product and one
    exchange between the ranks, so they cost as much as one adapter with the sum of their ranks.
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
    """Return a context in which a dropout mask is drawn from the right random state.

    The ranks of the tensor-parallel axis need equal masks where they hold equal values, and masks
    of their own where they do not.
    """
    # Experts never draw from the common state: each rank has its own number of tokens for them, so
    # the states of the ranks would drift apart.
    if not wiring.is_expert and not (ranks_differ and wiring.size > 1):
        return nullcontext()
    from megatron.core.tensor_parallel import random

    tracker = random.get_cuda_rng_tracker()
    if not tracker.is_initialized():
        return nullcontext()
    return tracker.fork(random.get_expert_parallel_rng_tracker_name()) if wiring.is_expert else tracker.fork()  # type: ignore[no-any-return]
