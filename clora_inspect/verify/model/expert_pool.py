"""Keep all experts of a layer at their true width in little memory: the weight of each expert is a
window on one pool of values.

Two windows never begin a whole number of rows apart, so no two experts have a row in common. A
window overlaps its neighbours, so nothing may be written into it: a merged delta is added each time
the weight is read (`add_when_used`).
"""

from __future__ import annotations

import re
from math import gcd
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.utils import parametrize

from clora_inspect.verify.model.limits import EXPERT_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn


class Draw(Protocol):
    """Fills a tensor in place with the values that belong to its name."""

    def __call__(self, tensor: torch.Tensor, name: str, *, row: int) -> None:
        """Fill `tensor`, whose weights have rows of `row` elements."""


STRETCH = 65_536
"""Smallest number of elements between the beginnings of two windows."""
ALIGNMENT = 8
"""Alignment of each window in elements, where one is possible: kernels need 16-byte addresses."""


@torch.no_grad()
def pool_experts(chunks: Sequence[nn.Module], draw: Draw) -> set[int]:
    """Make the weights of grouped experts windows, where they do not fit into memory by themselves.

    Args:
        chunks: a base model. Its memory must not have been written to: the operating system gives
            out memory when it is first written, and the experts' would not fit.
        draw: fills a pool.

    Returns:
        The addresses of the pools, which have their values.
    """
    groups = [
        (f"{path}.weights", weights)
        for chunk in chunks
        for path, module in chunk.named_modules()
        if (weights := numbered_weights(module))
    ]
    if sum(weight.numel() for _, weights in groups for weight in weights) <= EXPERT_PARAMETERS:
        return set()
    return {_pool(name, weights, draw) for name, weights in groups}


def _pool(name: str, weights: list[nn.Parameter], draw: Draw) -> int:
    first = weights[0]
    stretch = stretch_of(first.shape[-1], len(weights))
    pool = torch.empty(first.numel() + stretch * (len(weights) - 1), dtype=first.dtype, device=first.device)
    draw(pool, name, row=first.shape[-1])
    for number, weight in enumerate(weights):
        weight.data = pool[number * stretch :][: weight.numel()].view(weight.shape)
    return pool.untyped_storage().data_ptr()


def stretch_of(row: int, count: int) -> int:
    """Return the number of elements between the beginnings of two neighbouring windows.

    Args:
        row: elements in a row of a weight.
        count: number of windows. No two of them are a whole number of rows apart.
    """
    for step in (ALIGNMENT, 1):
        for size in range(STRETCH, STRETCH + 2 * row, step):
            # Multiples of `size` first meet a row's beginning again after this many windows.
            if row // gcd(size, row) >= count:
                return size
    return STRETCH


def is_window(weight: torch.Tensor) -> bool:
    """Return whether a weight shares its memory with others."""
    return bool(weight.untyped_storage().nbytes() > weight.numel() * weight.element_size())


class _Added(torch.nn.Module):
    def __init__(self, delta: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self._delta = delta

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self._delta().to(weight.dtype)


def add_when_used(linear: nn.Module, number: int, delta: Callable[[], torch.Tensor]) -> None:
    """Make the `number`th weight of grouped experts read as itself plus `delta()`.

    `delta` is called each time the weight is read.
    """
    # `unsafe` skips torch's check of the parametrization, which would compute the delta at once.
    parametrize.register_parametrization(linear, f"weight{number}", _Added(delta), unsafe=True)


def numbered_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return `weight0`, `weight1`, ... of a grouped linear in order; empty for other modules."""
    named = dict(module.named_parameters(recurse=False))
    numbers = sorted(int(name.removeprefix("weight")) for name in named if re.fullmatch(r"weight\d+", name))
    return [named[f"weight{number}"] for number in numbers]
