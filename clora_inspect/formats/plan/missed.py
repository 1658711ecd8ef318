"""The modules that hold parameters and get no adapter, as table rows: what differs only in its
layer becomes one row. Pure data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.plan import Reason
from clora_inspect.formats.plan.rows import braced

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora.plan import Skip
    from clora_inspect.job.plan import JobPlan


@dataclass(frozen=True, slots=True)
class Missed:
    """Modules of one name, in all layers and on all ranks, that are left alone for the same reason."""

    name: str
    """The target that would name them, or the module's last name."""
    class_name: str
    reason: Reason
    by: str | None
    layers: tuple[int, ...]
    count: int
    """Modules in the whole model."""


def missed(plan: JobPlan, *, keep: Callable[[Skip], bool] = lambda _: True, by_layer: bool = False) -> list[Missed]:
    """Linears that could be adapted first, then what has no LoRA form; each in the order of the
    model.
    """
    alike: dict[tuple[object, ...], list[Skip]] = {}
    for rank_class in plan.rank_classes:
        for skip in filter(keep, rank_class.skipped):
            if skip.reason is not Reason.NO_PARAMETERS:
                kind = (skip.global_layer if by_layer else None, skip_name(skip), skip.class_name, skip.reason, skip.by)
                alike.setdefault(kind, []).append(skip)
    rows = [_row(skips) for skips in alike.values()]
    return sorted(rows, key=lambda row: row.reason is Reason.NOT_ADAPTABLE)


def skip_name(skip: Skip) -> str:
    """What a skipped module, or the skipped part of a fused one, is called in targets."""
    last = skip.module.rsplit(".", 1)[-1]
    if skip.part:
        return FUSED[last][skip.part]
    parts = FUSED.get(last, {})
    return braced(parts.values()) if parts and skip.linears == len(parts) else last


def _row(skips: list[Skip]) -> Missed:
    first = skips[0]
    return Missed(
        name=skip_name(first),
        class_name=first.class_name,
        reason=first.reason,
        by=first.by,
        layers=tuple(sorted({skip.global_layer for skip in skips if skip.global_layer is not None})),
        count=sum(skip.copies for skip in skips),
    )
