"""Tell what is wrong with a snapshot that has all fields: numbers, paths and shapes that none can
have. Views and the drift rely on what is checked here. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clora.fused import FUSED
from clora.limits import LARGEST_AXIS, LARGEST_NUMBER, LARGEST_SIZE
from clora_inspect.job.path_damage import damage_of_path, damage_of_towers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clora_inspect.snapshot.record import PlacementLine, Snapshot, SnapshotLayout

NUMERIC_TYPES: dict[str, tuple[type, ...]] = {
    "alpha": (int, float),
    "dim": (int,),
    "dropout": (int, float),
    "dropout_position": (str,),
    "lora_A_init_method": (str,),
    "lora_B_init_method": (str,),
    "normalize_moe_lora": (bool,),
    "share_expert_adapters": (bool,),
}
"""Field of `lora` -> the types of its value. An older snapshot may lack some of the fields."""

_STAGE = re.compile(r"(?:[0-9]{1,6}(?:-[0-9]{1,6})?(?: |$))*")
_SHARD = re.compile(r"whole|(?:(?:experts|rank|in|out)/(?:tp|etp|ep)(?: |$)){1,3}")


def damage_of_snapshot(snapshot: Snapshot) -> str | None:
    """Return the first thing that is wrong with `snapshot`, with its place; None for nothing."""
    return next(_damage(snapshot), None)


def _damage(snapshot: Snapshot) -> Iterator[str]:
    yield from _damage_of_layout(snapshot.layout)
    for name, count in {"params": snapshot.base.params, **snapshot.base.modules}.items():
        if not 0 <= count < LARGEST_NUMBER:
            yield f"base: {name[:60]} is {str(count)[:30]}, which is no count"
    for what in damage_of_towers(snapshot.base.towers or ()):
        yield f"base.towers{what}"
    yield from _damage_of_lora(snapshot.lora)
    for number, line in enumerate(snapshot.placements):
        for what in _damage_of_line(line, snapshot.layout):
            yield f"placements[{number}].{what}"


def _damage_of_layout(layout: SnapshotLayout) -> Iterator[str]:
    for axis, size in layout.sizes().items():
        if not 1 <= size <= LARGEST_AXIS:
            yield f"layout.{axis} is {str(size)[:30]}, and an axis has 1 to {LARGEST_AXIS:,} ranks"
    for number, stage in enumerate(layout.stages):
        if not _STAGE.fullmatch(stage):
            yield f"layout.stages[{number}] is {stage[:60]!r}, which is no list of layers"


def _damage_of_lora(lora: Mapping[str, int | float | str | bool]) -> Iterator[str]:
    for name, value in lora.items():
        if name not in NUMERIC_TYPES:
            yield f"lora.{name[:60]} is no field of canonical LoRA"
        elif type(value) not in NUMERIC_TYPES[name] or (
            isinstance(value, int | float) and not -LARGEST_SIZE < value < LARGEST_NUMBER
        ):
            yield f"lora.{name} is {str(value)[:60]}"


def _damage_of_line(line: PlacementLine, layout: SnapshotLayout) -> Iterator[str]:
    path, bracket, part = line.at.partition("[")
    damage = damage_of_path(path)
    if damage is not None:
        yield f"at {damage}"
    if bracket and part.removesuffix("]") not in FUSED.get(path.rpartition(".")[2], ()):
        yield f"at is {line.at[:80]!r}, which is no part of a fused linear"
    if not 1 <= line.copies <= LARGEST_SIZE:
        yield f"copies is {str(line.copies)[:30]}, which is no number of modules"
    if not len(line.a) == len(line.b) in (2, 3):
        yield f"a has {len(line.a)} dims, and b has {len(line.b)}: both have 2 or 3"
        return
    if not all(1 <= size <= LARGEST_SIZE for size in (*line.a, *line.b)) or line.a[-2] != line.b[-1]:
        yield "a and b are no shapes of a pair of factors"
    for sizes, shard, dims in (
        (line.a, line.shard[0], ("experts", "rank", "in")),
        (line.b, line.shard[1], ("experts", "out", "rank")),
    ):
        if not _divides(sizes, shard, dims[-len(sizes) :], layout):
            yield f"shard has {shard[:60]!r}, which is no split of {list(sizes)}"


def _divides(sizes: tuple[int, ...], shard: str, dims: tuple[str, ...], layout: SnapshotLayout) -> bool:
    if not _SHARD.fullmatch(shard):
        return False
    widths = layout.sizes()
    split = dict(word.split("/") for word in shard.split() if shard != "whole")
    return all(size % widths[split[dim]] == 0 for size, dim in zip(sizes, dims, strict=True) if dim in split)
