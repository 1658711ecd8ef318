"""The rows of the page's tables: targets, adapters, and what gets none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look
from clora_inspect.formats.plan.rows import PlacementRow, sections

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One string of `target_modules`."""

    target: str
    matches: int
    adapters: int
    params: int


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """Adapters that differ only in their layer."""

    place: str
    row: PlacementRow
    a_shape: str
    b_shape: str


def target_rows(plan: JobPlan) -> list[TargetRow]:
    """Return the targets as the user wrote them, with what each selects in the whole model."""
    adapters: dict[str, int] = {}
    params: dict[str, int] = {}
    for ranks in plan.rank_classes:
        for placement in ranks.placements:
            target = placement.target or ""
            adapters[target] = adapters.get(target, 0) + placement.copies
            params[target] = params.get(target, 0) + placement.model_params
    # A target whose canonical linear shares a fused adapter has its adapters under another's name.
    return [
        TargetRow(target, matches, adapters.get(target, 0), params.get(target, 0))
        for target, matches in plan.matches.items()
    ]


def adapter_rows(plan: JobPlan) -> list[AdapterRow]:
    """Return the adapters of all ranks, in the order of `clora-inspect plan`."""
    look = Look()
    return [
        AdapterRow(_place(section.place, in_mtp=section.in_mtp), row, look.shape(row.a_shape), look.shape(row.b_shape))
        for section, rows in sections(plan)
        for row in rows
    ]


def _place(place: str, *, in_mtp: bool) -> str:
    return f"{place}, multi-token prediction" if in_mtp else place
