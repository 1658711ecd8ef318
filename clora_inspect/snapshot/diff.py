"""Compare two snapshots: their placements, base models, layouts and LoRA settings. Pure."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from clora_inspect.job.layout import AXES
from clora_inspect.job.module_path import folded, without_layer
from clora_inspect.snapshot.drift import Change, Drift, DriftLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.snapshot.record import Base, PlacementLine, Snapshot, SnapshotLayout


_RENAMED_NAMES = 16
"""Names in a path that may be a renamed one. The deepest model has 12, and a key for each of 64
names would take gigabytes.
"""


class LinePair(NamedTuple):
    """A placement before and after; None where it does not exist."""

    was: PlacementLine | None
    now: PlacementLine | None


def compare(before: Snapshot, after: Snapshot) -> Drift:
    """Return what changed from `before` to `after`."""
    old = {line.at: line for line in before.placements}
    new = {line.at: line for line in after.placements}
    removed = [line for at, line in old.items() if at not in new]
    added = [line for at, line in new.items() if at not in old]
    changed = [
        LinePair(old[at], line) for at, line in new.items() if at in old and _compared(old[at]) != _compared(line)
    ]
    # Modules get new names only in another base model. In the same one, a placement at another path
    # is another placement.
    if before.base.fingerprint != after.base.fingerprint:
        renamed = _renamed(removed, added)
        changed += (LinePair(was, now) for was, now in renamed)
        old_paths, new_paths = {was.at for was, _ in renamed}, {now.at for _, now in renamed}
        removed = [line for line in removed if line.at not in old_paths]
        added = [line for line in added if line.at not in new_paths]
    number_changed = _count(pair.now for pair in changed)
    return Drift(
        kept=after.totals.placements - number_changed - _count(added),
        added=_count(added),
        removed=_count(removed),
        changed=number_changed,
        params_before=before.totals.params,
        params_after=after.totals.params,
        lines=(
            *_lines(Change.REMOVED, (LinePair(line, None) for line in removed)),
            *_lines(Change.ADDED, (LinePair(None, line) for line in added)),
            *_lines(Change.CHANGED, changed),
        ),
        settings=tuple(_settings(before, after)),
        base=tuple(_base(before.base, after.base)),
        layout=tuple(_layout(before.layout, after.layout)),
    )


def _compared(line: PlacementLine) -> tuple[object, ...]:
    """Return the fields that make two placements equal.

    `by` is left out: it says which target asked for the adapter, not what is built.
    """
    return line.a, line.b, line.shard, line.copies


def _renamed(
    removed: Iterable[PlacementLine], added: Iterable[PlacementLine]
) -> list[tuple[PlacementLine, PlacementLine]]:
    """Pair removed and added placements that are the same adapter under another name.

    They are equal, the same target chose them, and their paths differ in one name. Each is paired
    once, in the order of the snapshots.
    """
    candidates: dict[tuple[object, ...], deque[PlacementLine]] = {}
    for line in added:
        for key in _keys_without_a_name(line):
            candidates.setdefault(key, deque()).append(line)
    taken: set[str] = set()
    renamed = []
    for was in removed:
        alike = (candidates.get(key) for key in _keys_without_a_name(was))
        now = next((free for lines in alike if lines and (free := _first_free(lines, taken))), None)
        if now is not None:
            taken.add(now.at)
            renamed.append((was, now))
    return renamed


def _first_free(lines: deque[PlacementLine], taken: set[str]) -> PlacementLine | None:
    # Taken lines are dropped, so that none is looked at again for each of 100,000 others.
    while lines and lines[0].at in taken:
        lines.popleft()
    return lines[0] if lines else None


def _keys_without_a_name(line: PlacementLine) -> Iterator[tuple[object, ...]]:
    """Yield a key for each name of the path, with that name left open.

    Two placements have a key in common exactly when they may be a renaming.
    """
    module, bracket, part = line.at.partition("[")
    names = module.split(".")
    if len(names) > _RENAMED_NAMES:
        return
    for number, name in enumerate(names):
        # A number is no name: another layer is another place.
        if not name.isdigit():
            yield (number, *names[:number], None, *names[number + 1 :], bracket + part, line.by, *_compared(line))


def _lines(change: Change, pairs: Iterable[LinePair]) -> list[DriftLine]:
    """Fold pairs that changed in the same way in several layers into one line each."""
    alike: dict[tuple[object, ...], list[LinePair]] = {}
    for pair in pairs:
        paths = [without_layer(line.at) for line in pair if line]
        key = (*paths, *(_compared(line) if line else None for line in pair))
        alike.setdefault(key, []).append(pair)
    return [_drift_line(change, same) for same in alike.values()]


def _drift_line(change: Change, pairs: list[LinePair]) -> DriftLine:
    was, now = pairs[0]
    paths = [line.at for pair in pairs if (line := pair.now or pair.was)]
    old_paths = [pair.was.at for pair in pairs if pair.was and pair.now and pair.was.at != pair.now.at]
    return DriftLine(
        change=change,
        where=folded(paths)[0][0],
        was=folded(old_paths)[0][0] if old_paths else None,
        count=_count(pair.now or pair.was for pair in pairs),
        before=_described(was) if was else None,
        after=_described(now) if now else None,
        params=sum((new.params if new else 0) - (old.params if old else 0) for old, new in pairs),
    )


def _described(line: PlacementLine) -> str:
    """Describe an adapter in one line: `rank 16, in 4096, out 1024, A rank/tp, B out/tp`."""
    experts = f"{line.a[0]} experts, " if len(line.a) > 2 else ""
    return f"{experts}rank {line.rank}, in {line.a[-1]}, out {line.b[-2]}, A {line.shard[0]}, B {line.shard[1]}"


def _settings(before: Snapshot, after: Snapshot) -> Iterator[str]:
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


def _base(before: Base, after: Base) -> Iterator[str]:
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
    # Only the fingerprint differs, which also covers the paths.
    if (before.class_name, before.params, was) == (after.class_name, after.params, now):
        yield "the same classes and sizes at other paths: the module tree was rearranged"


def _layout(before: SnapshotLayout, after: SnapshotLayout) -> Iterator[str]:
    for name in (*AXES, "sp"):
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            yield f"{name} {_value(was)} -> {_value(now)}"
    # If pp changed, all stages hold other layers, and the line of `pp` says so already.
    if before.stages != after.stages and before.pp == after.pp:
        pairs = enumerate(zip(before.stages, after.stages, strict=False))
        moved = next((number for number, (was, now) in pairs if was != now), None)
        if moved is None:  # a file that was edited by hand lists more or fewer stages than pp
            yield "other stages"
        else:
            yield f"layers of stage {moved}: {before.stages[moved]} -> {after.stages[moved]}"


def _count(lines: Iterable[PlacementLine | None]) -> int:
    """Count adapters of the whole model: a line may stand for several modules."""
    return sum(line.copies for line in lines if line)
