"""Compare two snapshots: their placements, base models, layouts and LoRA settings. Pure."""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from clora.layer_pattern import hybrid_path, without_release
from clora_inspect.job.module_path import folded, without_layer
from clora_inspect.snapshot.drift import Change, Drift, DriftLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.job.layout import Mesh
    from clora_inspect.snapshot.record import Base, PlacementLine, Snapshot, SnapshotLayout


_RENAMED_NAMES = 16
"""Names in a path that may be a renamed one. The deepest model has 12, and a key for each of 64
names would take gigabytes.
"""


_LAYERS = re.compile(r"(\d+)(?:-(\d+))?")
"""A run in the layers of a stage: `0-15`, or `7`."""


class LinePair(NamedTuple):
    """A placement before and after; None where it does not exist."""

    was: PlacementLine | None
    now: PlacementLine | None


def compare(before: Snapshot, after: Snapshot) -> Drift:
    """Return what changed from `before` to `after`."""
    old, new = _by_place(before, after), _by_place(after, before)
    removed = [line for place, line in old.items() if place not in new]
    added = [line for place, line in new.items() if place not in old]
    pairs = [(old[place], line) for place, line in new.items() if place in old]
    changed = [
        LinePair(was, now)
        for was, now in pairs
        if _compared(was) != _compared(now) or without_release(was.at) != without_release(now.at)
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
        layout=tuple(_layout(before.layout, after.layout, _stages(before, after), _stages(after, before))),
    )


def _by_place(own: Snapshot, other: Snapshot) -> dict[str, PlacementLine]:
    """Return the placements of `own` by paths that are those of `other` where the two models differ
    in names alone: of another release, or a HybridModel that stands for the GPTModel.
    """
    rename = hybrid_path if _becomes_hybrid(own, other) else str
    return {without_release(rename(line.at)): line for line in own.placements}


def _becomes_hybrid(own: Snapshot, other: Snapshot) -> bool:
    """Return whether `own` is of a GPTModel and `other` of the HybridModel that stands for one."""
    return own.base.layer_pattern is None and other.base.layer_pattern is not None


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
    names = {*before.lora} | {*after.lora}
    if before.run or after.run:
        # A run tells of its settings only what its adapters have.
        names = {*before.lora} & {*after.lora}
    for name in sorted(names):
        was, now = before.lora.get(name), after.lora.get(name)
        if was != now:
            yield f"{name} {value_text(was)} -> {value_text(now)}"


def value_text(value: object, *, absent: str = "unset") -> str:
    """Return how messages write a setting; `absent` stands for None."""
    if value is None:
        return absent
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _base(before: Base, after: Base) -> Iterator[str]:
    if before == after:
        return
    if before.class_name != after.class_name:
        yield f"the model is a {after.class_name}, it was a {before.class_name}"
    if (before.layer_pattern is None) is not (after.layer_pattern is None):
        yield "layer i of the GPTModel is layers 2i, the attention, and 2i + 1, the MLP, of the HybridModel"
    if before.params != after.params:
        yield f"{after.params:,} parameters, it had {before.params:,}"
    was, now = Counter(before.modules), Counter(after.modules)
    for name in sorted({*was, *now}):
        if was[name] != now[name]:
            yield f"{now[name]:,} {name}, it had {was[name]:,}" if was[name] else f"{now[name]:,} {name}, it had none"
    # Only the fingerprint differs, which also covers the paths.
    if (before.class_name, before.params, was) == (after.class_name, after.params, now):
        yield "the same classes and sizes at other paths: the module tree was rearranged"


def _stages(own: Snapshot, other: Snapshot) -> tuple[str, ...]:
    """Return the layers of each stage of `own` by the numbers that they have in `other`."""
    if not _becomes_hybrid(own, other):
        return own.layout.stages
    # `0-15` is `0-31` there, and layer 7 is the layers 14 and 15.
    return tuple(
        _LAYERS.sub(lambda run: f"{2 * int(run[1])}-{2 * int(run[2] or run[1]) + 1}", s) for s in own.layout.stages
    )


def _layout(
    before: SnapshotLayout, after: SnapshotLayout, was_on: tuple[str, ...], is_on: tuple[str, ...]
) -> Iterator[str]:
    yield from mesh_changes(before, after)
    # If pp changed, all stages hold other layers, and the line of `pp` says so already.
    if was_on != is_on and before.pp == after.pp:
        pairs = enumerate(zip(was_on, is_on, strict=False))
        moved = next((number for number, (was, now) in pairs if was != now), None)
        if moved is None:  # a file that was edited by hand lists more or fewer stages than pp
            yield "other stages"
        else:
            yield moved_layers(moved, was_on[moved], is_on[moved])


def mesh_changes(before: Mesh, after: Mesh) -> Iterator[str]:
    """Yield the mesh axes that have another size, and sequence parallelism where it differs."""
    was = {**before.sizes(), "sp": before.sequence_parallel}
    now = {**after.sizes(), "sp": after.sequence_parallel}
    for name, size in was.items():
        if size != now[name]:
            yield f"{name} {value_text(size)} -> {value_text(now[name])}"


def moved_layers(stage: int, was: str, now: str) -> str:
    """Return the words for a stage with other layers than it had."""
    return f"layers of stage {stage}: {was or 'none'} -> {now or 'none'}"


def _count(lines: Iterable[PlacementLine | None]) -> int:
    """Count adapters of the whole model: a line may stand for several modules."""
    return sum(line.copies for line in lines if line)
