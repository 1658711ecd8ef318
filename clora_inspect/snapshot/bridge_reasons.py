"""Why Megatron-Bridge adapts a model in another way than clora: `REASONS` is the one list. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.job.module_path import without_layer
from clora_inspect.job.place import Place, place_of_module
from clora_inspect.snapshot.drift import Change

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.snapshot.record import PlacementLine, Snapshot

REASONS = {
    2: "A dot in a pattern is a dot: *.layers.1.* is layer 1. Megatron-Bridge takes it for any character, and adapts "
    "layers 10 to 19 as well.",
    3: "Targets add up. Megatron-Bridge takes the first that matches a module, and loses what others ask for there.",
    5: "An empty target_modules means every linear; Megatron-Bridge wraps only the first kind that it meets.",
    7: "Grouped experts keep one adapter for the fused weight; Megatron-Bridge before 0.4.2 cuts it in gate and up.",
    8: "An MLP without a gate has one projection: one adapter over all its rows, called up. Megatron-Bridge cuts it in "
    "two halves that mean nothing.",
    9: "With an attention output gate the q part is query and gate together, so its B has twice the rows. "
    "Megatron-Bridge counts the query alone, and its forward fails.",
}
"""Row of the design page's table "What canonical LoRA must do" -> what differs, and why."""

UNEXPLAINED = "No known difference between the two explains this. Please report it."

_FOLDED = re.compile(r"\blayers\.(?:\d+|\{[^}]*\})")


def explained(drift: Drift, ours: Snapshot, theirs: Snapshot) -> Drift:
    """Return the changes from clora's adapters to Megatron-Bridge's, each line with its reason.

    Args:
        drift: `compare(ours, theirs)`.
        ours: what clora adapts.
        theirs: what Megatron-Bridge adapts in the same model.
    """
    rows = _rows(ours, theirs)
    lines = []
    for line in drift.lines:
        found = sorted(rows.get((line.change, _FOLDED.sub("layers.*", line.where)), ()))
        why = " ".join(REASONS[row] for row in found) or UNEXPLAINED
        lines.append(msgspec.structs.replace(line, why=why))
    return msgspec.structs.replace(drift, lines=tuple(lines))


def _rows(ours: Snapshot, theirs: Snapshot) -> dict[tuple[Change, str], set[int]]:
    """Return the kind of a change, and its place without its layer -> rows of `REASONS`."""
    was, now = ({line.at: line for line in each.placements} for each in (ours, theirs))
    chosen: dict[str, set[str | None]] = {}
    for line in theirs.placements:
        chosen.setdefault(_module(line), set()).add(line.by)
    rows: dict[tuple[Change, str], set[int]] = {}
    for at in was.keys() | now.keys():
        change = Change.REMOVED if at not in now else Change.ADDED if at not in was else Change.CHANGED
        row = _row(was.get(at), now.get(at), was.keys(), now.keys(), chosen)
        if row is not None:
            rows.setdefault((change, without_layer(at)), set()).add(row)
    return rows


def _row(
    ours: PlacementLine | None,
    theirs: PlacementLine | None,
    was: AbstractSet[str],
    now: AbstractSet[str],
    chosen: Mapping[str, AbstractSet[str | None]],
) -> int | None:
    """Return the row of `REASONS` that explains one place; None when none does.

    Args:
        ours: clora's adapter there.
        theirs: Megatron-Bridge's adapter there.
        was: places of clora's adapters.
        now: places of Megatron-Bridge's adapters.
        chosen: module -> the targets by which Megatron-Bridge chose its adapters.
    """
    if ours is not None and theirs is not None:
        lost_half = ours.at.endswith("[q]") and ours.b[-2] == 2 * theirs.b[-2]
        return 9 if lost_half else None
    line = ours or theirs
    if line is None:
        return None
    module = _module(line)
    halves = {f"{module}[gate]", f"{module}[up]"}
    if (module in was and halves & now) or (module in now and halves & was):
        return 7 if place_of_module(module) is Place.EXPERTS else 8
    if ours is None:
        by = line.by or ""
        return 2 if "*" in by and "." in by else None
    if line.by is None:
        return 5
    # Another target matched the module first.
    return 3 if chosen.get(module, set()) - {line.by} else None


def _module(line: PlacementLine) -> str:
    return line.at.partition("[")[0]
