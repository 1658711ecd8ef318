"""Two snapshots -> `Drift`: kept, added, removed, changed; and what changed in the base model and
the layout. Pure.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora_inspect.job.layout import AXES
from clora_inspect.job.module_path import folded, without_layer
from clora_inspect.snapshot.drift import Change, Drift, DriftLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.snapshot.record import Base, PlacementLine, Snapshot, SnapshotLayout

Pair = tuple["PlacementLine | None", "PlacementLine | None"]
"""A placement as it was and as it is."""


def compare(before: Snapshot, after: Snapshot) -> Drift:
    """What happened between `before` and `after`."""
    old = {line.at: line for line in before.placements}
    new = {line.at: line for line in after.placements}
    pairs: list[Pair] = [(old[at], new[at]) for at in new if at in old]
    gone = [line for at, line in old.items() if at not in new]
    come = [line for at, line in new.items() if at not in old]
    # A base model that did not change has no new names: then one placement went and another came.
    renamed = _renames(gone, come) if before.base.fingerprint != after.base.fingerprint else []
    old_names, new_names = {was.at for was, _ in renamed}, {now.at for _, now in renamed}
    changed: list[Pair] = [(was, now) for was, now in pairs if was and now and _looks(was) != _looks(now)]
    changed += renamed
    removed: list[Pair] = [(line, None) for line in gone if line.at not in old_names]
    added: list[Pair] = [(None, line) for line in come if line.at not in new_names]
    return Drift(
        kept=after.totals.placements - _count(now for _, now in changed) - _count(now for _, now in added),
        added=_count(now for _, now in added),
        removed=_count(was for was, _ in removed),
        changed=_count(now for _, now in changed),
        params_before=before.totals.params,
        params_after=after.totals.params,
        lines=(*_lines(Change.REMOVED, removed), *_lines(Change.ADDED, added), *_lines(Change.CHANGED, changed)),
        settings=tuple(_settings(before, after)),
        base=tuple(_base(before.base, after.base)),
        layout=tuple(_layout(before.layout, after.layout)),
    )


def _looks(line: PlacementLine) -> tuple[object, ...]:
    """What of a placement is its own. Which target chose it is how it was asked for, not what it
    is.
    """
    return line.a, line.b, line.shard, line.copies


def _renames(gone: Iterable[PlacementLine], come: Iterable[PlacementLine]) -> list[tuple[PlacementLine, PlacementLine]]:
    """Placements of equal looks, chosen by the same target, whose paths differ in one name: one for
    one, in order.
    """
    waiting: dict[tuple[object, ...], list[PlacementLine]] = {}
    for line in come:
        for key in _with_one_name_open(line):
            waiting.setdefault(key, []).append(line)
    taken: set[str] = set()
    renamed = []
    for was in gone:
        candidates = (line for key in _with_one_name_open(was) for line in waiting.get(key, ()))
        now = next((line for line in candidates if line.at not in taken), None)
        if now is not None:
            taken.add(now.at)
            renamed.append((was, now))
    return renamed


def _with_one_name_open(line: PlacementLine) -> Iterator[tuple[object, ...]]:
    """What two placements have in common when their paths differ in one name. A number is no name:
    another layer is another place.
    """
    module, bracket, part = line.at.partition("[")
    names = module.split(".")
    for number, name in enumerate(names):
        if not name.isdigit():
            yield (number, *names[:number], None, *names[number + 1 :], bracket + part, line.by, *_looks(line))


def _lines(change: Change, pairs: Iterable[Pair]) -> list[DriftLine]:
    """`pairs` folded: what changed in the same way in several layers is one line."""
    alike: dict[tuple[object, ...], list[Pair]] = {}
    for was, now in pairs:
        places = [without_layer(line.at) for line in (was, now) if line]
        key = (*places, _looks(was) if was else None, _looks(now) if now else None)
        alike.setdefault(key, []).append((was, now))
    return [_drift_line(change, same) for same in alike.values()]


def _drift_line(change: Change, pairs: list[Pair]) -> DriftLine:
    was, now = pairs[0]
    places = [line.at for pair in pairs if (line := pair[1] or pair[0])]
    old_places = [old.at for old, new in pairs if old and new and old.at != new.at]
    return DriftLine(
        change=change,
        where=folded(places)[0][0],
        was=folded(old_places)[0][0] if old_places else None,
        count=_count(new or old for old, new in pairs),
        before=_described(was) if was else None,
        after=_described(now) if now else None,
        params=sum((new.params if new else 0) - (old.params if old else 0) for old, new in pairs),
    )


def _described(line: PlacementLine) -> str:
    """`rank 16, in 4096, out 1024, A rank/tp, B out/tp`"""
    experts = f"{line.a[0]} experts, " if len(line.a) > 2 else ""
    return f"{experts}rank {line.rank}, in {line.a[-1]}, out {line.b[-2]}, A {line.shard[0]}, B {line.shard[1]}"


def _settings(before: Snapshot, after: Snapshot) -> Iterable[str]:
    """The settings of LoRA that differ; the rank is left to the placements, where it shows."""
    for name in sorted({*before.lora, *after.lora}):
        was, now = before.lora.get(name), after.lora.get(name)
        if was != now:
            yield f"{name} {_value(was)} -> {_value(now)}"


def _value(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _base(before: Base, after: Base) -> Iterable[str]:
    if before == after:
        return
    if before.class_name != after.class_name:
        yield f"the model is a {after.class_name}, it was a {before.class_name}"
    if before.params != after.params:
        yield f"{after.params:,} parameters, it had {before.params:,}"
    was, now = Counter(before.modules), Counter(after.modules)
    for name in sorted({*was, *now}):
        if was[name] != now[name]:
            yield f"{now[name]:,} {name}, it had {was[name]:,}" if was[name] else f"{now[name]:,} {name}, it had none"
    if (before.class_name, before.params, was) == (after.class_name, after.params, now):
        yield "the same classes and sizes at other paths: the module tree was rearranged"


def _layout(before: SnapshotLayout, after: SnapshotLayout) -> Iterable[str]:
    for name in (*AXES, "sp"):
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            yield f"{name} {_value(was)} -> {_value(now)}"
    if before.stages != after.stages and before.pp == after.pp:
        moved = [
            number for number, (was, now) in enumerate(zip(before.stages, after.stages, strict=False)) if was != now
        ]
        first = moved[0] if moved else 0
        yield f"layers of stage {first}: {before.stages[first]} -> {after.stages[first]}" if moved else "other stages"


def _count(lines: Iterable[PlacementLine | None]) -> int:
    return sum(line.copies for line in lines if line)
