"""Plan one rank for the adapters of a snapshot, which has no modules and no lists of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora import linears
from clora.canonical_lora import CanonicalLoRA
from clora.layer_pattern import without_release
from clora.patterns import canonical_names, names_a_number
from clora.plan import Plan, merged_towers
from clora.planner import plan_model
from clora_inspect.job.module_path import global_path
from clora_inspect.launch.comparison import compare_adapters, compare_model
from clora_inspect.launch.live import NOTHING, read_rank
from clora_inspect.launch.refusal import refuse
from clora_inspect.snapshot.record import line_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from clora.linears import Model
    from clora.plan import Skip
    from clora_inspect.launch.expected import Expected
    from clora_inspect.snapshot.record import PlacementLine


def plan_for_snapshot(expected: Expected, model: Model) -> tuple[Plan, CanonicalLoRA]:
    """Return the plan that gives this rank its adapters of a snapshot, and their settings.

    The targets of the settings are those of this rank alone: the path of every linear.

    Raises:
        SurgeryError: layout, modules or shapes of the rank are not those of the snapshot.
    """
    live = read_rank(model)
    refuse(expected.name, compare_model(expected, live))
    lines = {without_release(line.at): line for line in expected.snapshot.placements}
    chunks = linears.chunks_of(model)
    skipped = live.base.skipped if live.base is not None else ()
    targets = [list(_targets(skipped, number, lines)) for number in range(len(chunks))]
    settings: dict[str, Any] = expected.snapshot.lora
    plan = _joined(
        # Each chunk by itself: a path may be in several chunks, with another layer of the model.
        [
            plan_model([chunk], CanonicalLoRA(target_modules=own or [NOTHING], **settings))
            for chunk, own in zip(chunks, targets, strict=True)
        ],
        lines,
    )
    planned = msgspec.structs.replace(live, lines=tuple(line_of(each) for each in plan.placements))
    refuse(expected.name, compare_adapters(expected, planned))
    every = [target for own in targets for target in own]
    return plan, CanonicalLoRA(target_modules=every or [NOTHING], **settings)


def _targets(skipped: Collection[Skip], chunk: int, lines: Collection[str]) -> Iterator[str]:
    """Yield the targets that select the linears of one chunk that the snapshot adapts."""
    for skip in skipped:
        if skip.chunk != chunk or skip.part is not None:
            continue
        path = without_release(global_path(skip.module, skip.global_layer))
        names = canonical_names(skip.module)
        if path in lines:
            # An MLP that is adapted as a whole is selected by its up part.
            yield names.get("up", skip.module)
        yield from (name for part, name in names.items() if f"{path}[{part}]" in lines)


def _joined(plans: list[Plan], lines: dict[str, PlacementLine]) -> Plan:
    """Return one plan of the chunks' plans, with the targets that the snapshot names."""
    placements = []
    for number, plan in enumerate(plans):
        for placement in plan.placements:
            line = lines.get(without_release(line_of(placement).at))
            by = None if line is None else line.by
            # Exclusions by number leave no trace in a snapshot, so they are counted on.
            by_number = by is None or names_a_number(by)
            placements.append(msgspec.structs.replace(placement, chunk=number, target=by, by_number=by_number))
    targets = dict.fromkeys(each.target for each in placements if each.target is not None)
    return Plan(
        placements=tuple(placements),
        skipped=tuple(
            msgspec.structs.replace(skip, chunk=number) for number, plan in enumerate(plans) for skip in plan.skipped
        ),
        matches={target: sum(each.target == target for each in placements) for target in targets},
        base_params=sum(plan.base_params for plan in plans),
        model_params=sum(plan.model_params for plan in plans),
        towers=merged_towers(plan.towers for plan in plans),
    )
