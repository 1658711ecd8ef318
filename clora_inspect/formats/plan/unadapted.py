"""The modules that hold parameters and get no adapter, as table rows. Modules that differ only in
their layer share a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.plan import Fate
from clora_inspect.formats.plan.rows import braced, last_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora.plan import Skip, Tower
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.job.towers import Towers


@dataclass(frozen=True, slots=True)
class UnadaptedRow:
    """Modules of one name without an adapter for the same reason, in all layers, on all ranks."""

    name: str
    """The target that would select them; where no target can, the last name of the module, or of it
    and its own parameters.
    """
    class_name: str
    reason: Fate
    by: str | None
    layers: tuple[int, ...]
    count: int
    """Number of modules in the whole model."""
    tower: Tower


def unadapted_rows(
    plan: JobPlan, *, keep: Callable[[Skip], bool] = lambda _: True, by_layer: bool = False
) -> list[UnadaptedRow]:
    """Return the rows of `plan`: linears that could be adapted, then modules that cannot be.

    Args:
        plan: the plan.
        keep: decides which modules are listed.
        by_layer: whether each layer has a row of its own.
    """
    alike: dict[tuple[object, ...], list[Skip]] = {}
    for rank_class in plan.rank_classes:
        for skip in filter(keep, rank_class.skipped):
            # Containers and activations would fill the table: nothing in them could be adapted.
            if skip.reason is not Fate.NO_PARAMETERS:
                layer = skip.global_layer if by_layer else None
                tower = plan.towers.of(skip.module)
                kind = (layer, tower, skip_name(skip), skip.class_name, skip.reason, skip.by)
                alike.setdefault(kind, []).append(skip)
    rows = [_row(skips, plan.towers) for skips in alike.values()]
    # False sorts before True, and equal keys keep the order of the model.
    return sorted(rows, key=lambda row: (plan.towers.rank_of(row.tower), row.reason is Fate.NOT_ADAPTABLE))


def skip_name(skip: Skip) -> str:
    """Return the name by which targets select a module without adapter, or a part of one.

    Parameters that a module holds beside other modules are named with it: the modules may be
    adapted, and the name of all of them would deny it.
    """
    names = targets_for(skip)
    if skip.own_parameters:
        return f"{last_name(skip.module)}.{listed_parameters(skip)}"
    # The fc1 of an MLP without a gate has a fused linear's name and is one linear.
    return braced(names) if skip.part or skip.linears == len(names) else last_name(skip.module)


def listed_parameters(skip: Skip) -> str:
    """Return the names of the module's own parameters, in braces if there are several."""
    names = ",".join(skip.own_parameters)
    return f"{{{names}}}" if len(skip.own_parameters) > 1 else names


def why_not_adaptable(skip: Skip) -> str:
    """Return why a module that has parameters gets no adapter, to follow its path."""
    if skip.own_parameters:
        return (
            f"is not adaptable itself: {listed_parameters(skip)}, beside the modules in it, is no linear's weight; "
            "linears in it are listed by themselves"
        )
    return "is not adaptable: it is neither a linear nor a router (an embedding, a norm, a convolution)"


def targets_for(skip: Skip) -> list[str]:
    """Return the bare targets that would adapt a module, one for each canonical part it has."""
    last = last_name(skip.module)
    parts = FUSED.get(last)
    if parts is None:
        return [last]
    return [parts[skip.part]] if skip.part else list(parts.values())


def _row(skips: list[Skip], towers: Towers) -> UnadaptedRow:
    first = skips[0]
    return UnadaptedRow(
        name=skip_name(first),
        class_name=first.class_name,
        reason=first.reason,
        by=first.by,
        layers=tuple(sorted({skip.global_layer for skip in skips if skip.global_layer is not None})),
        count=sum(skip.copies for skip in skips),
        tower=towers.of(first.module),
    )
