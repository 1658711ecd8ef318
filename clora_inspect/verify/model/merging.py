"""Merge adapters into a base model by the definition of LoRA, `W + alpha / dim B A`, and
megatron-core's packing. Nothing of an implementation is used, so that any can be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.axes import group_of
from clora_inspect.verify.model.expert_pool import add_when_used, is_window
from clora_inspect.verify.model.sites import base_of, rows_here, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from clora.plan import Placement
    from clora_inspect.verify.model.sites import Site


@dataclass(frozen=True, slots=True)
class Factors:
    """Copies of A and B of one adapter on this rank, without gradients."""

    placement: Placement
    a: torch.Tensor
    b: torch.Tensor


def factors_of(sites: Iterable[Site]) -> list[Factors]:
    """Return copies of all planned adapters' factors."""
    return [
        Factors(site.placement, site.a.detach().clone(), site.b.detach().clone())
        for site in sites
        if site.placement is not None
    ]


@torch.no_grad()
def merge_factors(chunks: Sequence[nn.Module], factors: Iterable[Factors]) -> list[str]:
    """Add every adapter's `alpha / dim B A` to this rank's base weights.

    Called on all ranks of an axis together: the factor that is split in another way than the weight
    is gathered.

    Args:
        chunks: a base model without adapters.
        factors: A and B of the adapters.

    Returns:
        Paths of the adapters that have no weight to be added to: an output layer that borrows the
        embedding's.
    """
    left_out = []
    for each in factors:
        placement = each.placement
        chunk = chunks[placement.chunk]
        weights = weights_of(chunk, placement.module)
        if not weights:
            left_out.append(placement.at)
        elif is_window(weights[0]):
            _merge_when_used(chunk, each, weights)
        else:
            for expert, weight in enumerate(weights):
                _add(weight, *delta_of(chunk, each, expert, weight))
    return left_out


def _add(weight: nn.Parameter, rows: torch.Tensor | None, delta: torch.Tensor) -> None:
    if rows is None:
        weight.add_(delta.to(weight.dtype))
    else:
        weight.index_add_(0, rows, delta.to(weight.dtype))


def _merge_when_used(chunk: nn.Module, factors: Factors, weights: Sequence[nn.Parameter]) -> None:
    """Merge experts that share memory: each weight is merged each time it is read."""
    linear = base_of(chunk, factors.placement.module)

    def delta_of_expert(expert: int) -> torch.Tensor:
        return delta_of(chunk, factors, expert, weights[expert])[1]

    # Experts that share one adapter have one delta: compute it once.
    shared = delta_of_expert(0) if factors.a.dim() == 2 and factors.b.dim() == 2 else None
    for expert in range(len(weights)):
        add_when_used(linear, expert, partial(delta_of_expert, expert) if shared is None else lambda: shared)


def delta_of(
    chunk: nn.Module, factors: Factors, expert: int, weight: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return what an adapter adds to one weight of this rank.

    Returns:
        The rows of the weight that it adds to (None for all of them), and the values to add.
    """
    placement = factors.placement
    # A's rank dim may be split over ranks, and the product sums over all of it, so A is gathered.
    # B's rows are the weight's rows, so this rank's part of B is enough, unless the rows of a
    # canonical part must be picked out of all of them.
    a, b = whole_along(factors.a, placement.a_axes, -2), factors.b
    if placement.part is not None or b.shape[-2] != weight.shape[0]:
        b = whole_along(b, placement.b_axes, -2)
    if a.dim() == 3:
        a, b = a[expert], b[expert]
    # At least fp32: the product is rounded once, when it is added.
    wide = torch.promote_types(weight.dtype, torch.float32)
    product = placement.alpha / placement.dim * (b.to(wide) @ a.to(wide))
    rows = rows_here(chunk, placement)
    if rows is None:
        return None, product
    own = [(here, number) for here, (part, number) in enumerate(rows) if part == placement.part]
    here = torch.tensor([row for row, _ in own], dtype=torch.long, device=weight.device)
    of_part = torch.tensor([number for _, number in own], dtype=torch.long, device=weight.device)
    return here, product[of_part]


def whole_along(factor: torch.Tensor, axes: Sequence[str | None], dim: int) -> torch.Tensor:
    """Return the factor with all ranks' parts of one dim, counted from the end.

    Args:
        factor: this rank's part.
        axes: for each dim of the whole factor, the axis that splits it.
        dim: a negative number.
    """
    axis = axes[dim] if len(axes) >= -dim else None
    group = group_of(axis)
    if group is None or group.size() == 1:
        return factor
    from torch import distributed

    parts = [torch.empty_like(factor) for _ in range(group.size())]
    distributed.all_gather(parts, factor.contiguous(), group=group)
    return torch.cat(parts, dim)
