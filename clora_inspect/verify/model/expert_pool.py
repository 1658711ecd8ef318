"""All experts of a layer at their true width in the memory of one: the weight of each is a window
of its own on one pool of values.

Windows begin a stretch apart that is no whole number of rows, so no two experts have a row in
common. What is to be added to such a weight is added when it is used, and forgotten: written into
the pool it would be added to the neighbours as well.
"""

from __future__ import annotations

import re
from math import gcd
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.utils import parametrize

from clora_inspect.verify.model.limits import EXPERT_PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn


class Draw(Protocol):
    """Fills a tensor of that name; the weights in it have rows of `row` elements."""

    def __call__(self, tensor: torch.Tensor, name: str, *, row: int) -> None:
        """Fill it in place."""


STRETCH = 65_536
"""Elements between the beginnings of two windows, at least."""
ALIGNED = 8
"""What they are a multiple of where that can be: kernels want addresses of 16 bytes."""


@torch.no_grad()
def pool_experts(chunks: Sequence[nn.Module], draw: Draw) -> set[int]:
    """Make the weights of grouped experts windows, where there are too many for memory of their
    own.

    Args:
        chunks: a base model whose memory is not touched yet.
        draw: fills a pool.

    Returns:
        The addresses of the pools, whose values are drawn.
    """
    groups = [
        (f"{path}.weights", own)
        for chunk in chunks
        for path, module in chunk.named_modules()
        if (own := _numbered(module))
    ]
    if sum(weight.numel() for _, own in groups for weight in own) <= EXPERT_PARAMETERS:
        return set()
    return {_pooled(name, own, draw) for name, own in groups}


def _pooled(name: str, own: list[nn.Parameter], draw: Draw) -> int:
    first = own[0]
    apart = stretch_of(first.shape[-1], len(own))
    pool = torch.empty(first.numel() + apart * (len(own) - 1), dtype=first.dtype, device=first.device)
    draw(pool, name, row=first.shape[-1])
    for number, weight in enumerate(own):
        weight.data = pool[number * apart :][: weight.numel()].view(weight.shape)
    return pool.untyped_storage().data_ptr()


def stretch_of(row: int, count: int) -> int:
    """Elements between the beginnings of two of `count` windows on weights whose rows have `row`
    elements: no two are whole rows apart.
    """
    for step in (ALIGNED, 1):
        for size in range(STRETCH, STRETCH + 2 * row, step):
            if row // gcd(size, row) >= count:
                return size
    return STRETCH


def is_window(weight: torch.Tensor) -> bool:
    """Whether a weight lies in memory that others share."""
    return bool(weight.untyped_storage().nbytes() > weight.numel() * weight.element_size())


class _Added(torch.nn.Module):
    def __init__(self, delta: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self._delta = delta

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self._delta().to(weight.dtype)


def add_when_used(linear: nn.Module, number: int, delta: Callable[[], torch.Tensor]) -> None:
    """From now on the `number`th weight of grouped experts is what it was plus `delta()`, made each
    time it is asked for.
    """
    parametrize.register_parametrization(linear, f"weight{number}", _Added(delta), unsafe=True)


def _numbered(module: nn.Module) -> list[nn.Parameter]:
    return list(_in_order(module))


def _in_order(module: nn.Module) -> Iterator[nn.Parameter]:
    found = {
        name: weight for name, weight in module.named_parameters(recurse=False) if re.fullmatch(r"weight\d+", name)
    }
    for name in sorted(found, key=lambda each: int(each.removeprefix("weight"))):
        yield found[name]
