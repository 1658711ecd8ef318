"""Treat an adapter's factors as parts of whole matrices: find the part that this rank has, and
assemble the whole matrix from the parts of all ranks.

The plan says which axis splits each dim (`Placement.a_axes`, `b_axes`); the rank's place on that
axis says which part it has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from clora.plan import is_prediction
from clora_inspect.verify.model.axes import place_on
from clora_inspect.verify.model.values import draw_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora.plan import Placement
    from clora_inspect.verify.model.sites import Site

Part = tuple[str, tuple[int, ...], torch.Tensor, torch.Tensor]
"""Name and shape of a whole matrix, flat positions in it, and the values there."""

MAGNITUDE = 0.3
"""Standard deviation of an adapter's output, where the base's output is about 1: large enough to
show, and small enough not to saturate the model.
"""


@torch.no_grad()
def randomise(sites: Iterable[Site], *, seed: int, b: bool = True) -> None:
    """Draw values for A and B (or A alone): not small, and the same matrices on every layout."""
    for site in sites:
        site.a.copy_(shard_of_whole(site, "a", seed))
        if b:
            site.b.copy_(shard_of_whole(site, "b", seed))


def shard_of_whole(site: Site, factor: str, seed: int) -> torch.Tensor:
    """Draw the whole matrix of a factor, "a" or "b", and return this rank's part of it."""
    placement = _placement(site)
    values = draw_whole(whole_name(placement, factor), _whole_shape(placement, factor), seed)
    if factor == "b":
        # A's entries are about 1 / sqrt(in). The scale is divided out, so that what is added has
        # the same size for every alpha.
        values = values * (MAGNITUDE * placement.dim / placement.alpha)
    return values.reshape(-1)[positions(site, factor)]


def part_of(site: Site, factor: str, values: torch.Tensor) -> Part:
    """Return `values`, shaped like the factor on this rank, as a part of the whole matrix."""
    placement = _placement(site)
    return (
        whole_name(placement, factor),
        _whole_shape(placement, factor),
        positions(site, factor).reshape(-1),
        values.detach().cpu().reshape(-1),
    )


def assembled(parts: Iterable[Part], *, bound: float) -> tuple[dict[str, torch.Tensor], str | None]:
    """Assemble whole matrices, in fp64 and by name, from the parts of all ranks.

    Args:
        parts: parts of any number of matrices; replicated ones come several times.
        bound: how far copies of one entry may differ, relative to the part's largest value.

    Returns:
        The matrices, and what is wrong with them: copies that differ, or an entry that no rank has.
    """
    whole: dict[str, torch.Tensor] = {}
    for name, shape, where, values in parts:
        # NaN marks an entry that no part has given yet.
        target = whole.setdefault(name, torch.full(shape, float("nan"), dtype=torch.float64)).view(-1)
        known = target[where]
        both = ~known.isnan()
        largest = max(values.abs().max().item() if values.numel() else 0.0, 1e-30)
        # 1e-30 keeps a part of zeros from a bound of zero, and from a division by zero below.
        apart = (known - values)[both].abs().max().item() if both.any() else 0.0
        if apart > bound * largest:
            return whole, f"copies of {name} on different ranks differ by {apart / largest:.1e} of its largest entry"
        target[where] = values.to(torch.float64)
    missing = next((name for name, matrix in whole.items() if matrix.isnan().any()), None)
    return whole, f"no rank holds some entries of {missing}" if missing else None


def positions(site: Site, factor: str) -> torch.Tensor:
    """Return the flat positions of this rank's entries in the whole matrix, shaped like the factor
    on this rank.
    """
    placement = _placement(site)
    shape = _whole_shape(placement, factor)
    axes = placement.a_axes if factor == "a" else placement.b_axes
    dims_here = len(placement.a_shape if factor == "a" else placement.b_shape)
    index = torch.arange(torch.Size(shape).numel()).view(shape)
    for dim, axis in enumerate(axes):
        rank, ranks = place_on(axis)
        if ranks == 1:
            continue
        # Where several sections are adapted as a whole, a rank has its part of each of them.
        shares = site.shares if factor == "b" and axis != "ep" else (1,)
        unit = index.shape[dim] // sum(shares)
        sections = torch.split(index, [unit * share for share in shares], dim)
        index = torch.cat([section.chunk(ranks, dim)[rank] for section in sections], dim)
    # An expert that is a module of its own has one matrix; the whole is a stack over experts.
    return index[0] if index.dim() > dims_here else index


def whole_name(placement: Placement, factor: str) -> str:
    """Return a name that is the same on every layout: layers and experts have global numbers."""
    module = placement.module
    if placement.global_layer is not None and not is_prediction(module):
        module = re.sub(r"layers\.\d+", f"layers.{placement.global_layer}", module, count=1)
    if (found := re.search(r"local_experts\.(\d+)", module)) and placement.experts is not None:
        rank, _ = place_on("ep")
        number = rank * placement.experts.num_local_experts + int(found[1])
        module = f"{module[: found.start()]}local_experts.{number}{module[found.end() :]}"
    return f"{module}[{placement.part}].{factor}" if placement.part else f"{module}.{factor}"


def _placement(site: Site) -> Any:
    if site.placement is None:
        raise KeyError(site.at)
    return site.placement


def _whole_shape(placement: Placement, factor: str) -> tuple[int, ...]:
    return placement.a_global_shape if factor == "a" else placement.b_global_shape
