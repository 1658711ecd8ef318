"""An adapter's factors as parts of whole matrices: which part this rank has, and the whole out of
the parts of all ranks.

What splits each dim is the plan's (`Placement.a_axes`, `b_axes`); which part a rank has is its
place on that axis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.axes import place_on
from clora_inspect.verify.model.values import drawn

if TYPE_CHECKING:
    from clora.plan import Placement
    from clora_inspect.verify.model.sites import Site

Part = tuple[str, tuple[int, ...], torch.Tensor, torch.Tensor]
"""Name and shape of a whole matrix, flat positions in it, and the values there."""

MAGNITUDE = 0.3
"""Standard deviation of what B adds, with the base's own product about 1."""


@torch.no_grad()
def randomise(sites: Iterable[Site], *, seed: int, b: bool = True) -> None:
    """Give A and B (or A alone) values that are not small: the same whole matrices on every
    layout.
    """
    for site in sites:
        site.a.copy_(shard_of_whole(site, "a", seed))
        if b:
            site.b.copy_(shard_of_whole(site, "b", seed))


def shard_of_whole(site: Site, factor: str, seed: int) -> torch.Tensor:
    """This rank's part of the whole matrix that is drawn for a factor, "a" or "b"."""
    placement = _planned(site)
    shape = _shape(placement, factor)
    name = whole_name(placement, factor)
    values = drawn(name, shape, seed)
    if factor == "b":
        # A's entries are 1 / sqrt(in); the scale is undone, so that what is added has the same size
        # whatever alpha is.
        values = values * (MAGNITUDE * placement.dim / placement.alpha)
    return values.reshape(-1)[positions(site, factor)]


def part_of(site: Site, factor: str, values: torch.Tensor) -> Part:
    """`values`, shaped like the factor on this rank, as part of its whole matrix."""
    placement = _planned(site)
    where = positions(site, factor)
    return (
        whole_name(placement, factor),
        _shape(placement, factor),
        where.reshape(-1),
        values.detach().cpu().reshape(-1),
    )


def assembled(parts: Iterable[Part], *, bound: float) -> tuple[dict[str, torch.Tensor], str | None]:
    """Whole matrices by name; and what is wrong with them: copies of one entry that differ by more
    than `bound`, or an entry that nobody has.
    """
    whole: dict[str, torch.Tensor] = {}
    for name, shape, where, values in parts:
        target = whole.setdefault(name, torch.full(shape, float("nan"), dtype=torch.float64)).view(-1)
        known = target[where]
        both = ~known.isnan()
        largest = values.abs().max().item() if values.numel() else 0.0
        if both.any() and ((known - values)[both].abs().max() > bound * max(largest, 1e-30)):
            apart = (known - values)[both].abs().max().item() / max(largest, 1e-30)
            return whole, f"copies of {name} on different ranks differ by {apart:.1e} of its largest entry"
        target[where] = values.to(torch.float64)
    missing = next((name for name, matrix in whole.items() if matrix.isnan().any()), None)
    return whole, f"no rank holds some entries of {missing}" if missing else None


def positions(site: Site, factor: str) -> torch.Tensor:
    """Flat positions of this rank's entries in the whole matrix, shaped like the factor here."""
    placement = _planned(site)
    shape, axes = _shape(placement, factor), placement.a_axes if factor == "a" else placement.b_axes
    local = len(placement.a_shape if factor == "a" else placement.b_shape)
    index = torch.arange(_numel(shape)).view(shape)
    for dim, axis in enumerate(axes):
        rank, ranks = place_on(axis)
        if ranks == 1:
            continue
        # Gate and up of experts that are adapted as a whole: a rank has its part of each half.
        halves = index.chunk(2, dim) if site.is_gate_and_up and factor == "b" and axis != "ep" else (index,)
        index = torch.cat([half.chunk(ranks, dim)[rank] for half in halves], dim)
    return index[0] if index.dim() > local else index


def whole_name(placement: Placement, factor: str) -> str:
    """A name that is the same on every layout: global numbers of layer and expert."""
    module = placement.module
    if placement.global_layer is not None and not module.startswith("mtp."):
        module = re.sub(r"layers\.\d+", f"layers.{placement.global_layer}", module, count=1)
    if (found := re.search(r"local_experts\.(\d+)", module)) and placement.experts is not None:
        rank, _ = place_on("ep")
        number = rank * placement.experts.num_local_experts + int(found[1])
        module = f"{module[: found.start()]}local_experts.{number}{module[found.end() :]}"
    return f"{module}[{placement.part}].{factor}" if placement.part else f"{module}.{factor}"


def _planned(site: Site) -> Any:
    if site.placement is None:
        raise KeyError(site.at)
    return site.placement


def _shape(placement: Placement, factor: str) -> tuple[int, ...]:
    return placement.a_global_shape if factor == "a" else placement.b_global_shape


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
