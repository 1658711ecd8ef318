"""Compare the shapes of adapters in a live model with their plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.verify.outcome import Refuted

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from clora_inspect.verify.model.sites import Site


def compare_shapes(sites: Iterable[Site]) -> None:
    """Check that every factor has its planned shape on this rank.

    Raises:
        Refuted: a factor has another shape, or a dtype without gradients.
    """
    for site in sites:
        placement = site.placement
        if placement is None:
            continue
        for name, factor, planned in (("A", site.a, placement.a_shape), ("B", site.b, placement.b_shape)):
            if tuple(factor.shape) != tuple(planned):
                raise Refuted(
                    f"{name} is {list(factor.shape)} on this rank, and beside this linear it must be {list(planned)}"
                    f"{_half_of_rows(name, factor, planned)}.",
                    where=site.at,
                    cannot_run=True,
                )
            if not factor.dtype.is_floating_point:
                raise Refuted(f"{name} is {factor.dtype}, which cannot be trained.", where=site.at)


def _half_of_rows(name: str, factor: torch.Tensor, planned: tuple[int, ...]) -> str:
    """Return an addition to the message if B has exactly half of its rows; else ""."""
    if name == "B" and len(planned) == factor.dim() and factor.shape[-2] * 2 == planned[-2]:
        return ": half of its rows have no adapter, as when the gate of an attention with an output gate is forgotten"
    return ""
