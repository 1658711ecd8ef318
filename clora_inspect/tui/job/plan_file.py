"""Read a saved plan, or make the plan that a snapshot remembers, so that both can be opened."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora.errors import CloraError
from clora.folders.regular_file import read_regular_file
from clora.plan import Placement
from clora_inspect.job.layout import Layout
from clora_inspect.job.module_path import layer_of
from clora_inspect.job.plan import (
    LARGEST_SAVED_FILE,
    JobPlan,
    LoraRecord,
    ModelRecord,
    RankClass,
    Totals,
    decode,
    lora_record,
)
from clora_inspect.machine.collector import collector_paused
from clora_inspect.snapshot import record

if TYPE_CHECKING:
    from pathlib import Path

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def read_plan(path: Path) -> JobPlan:
    """Read a plan, or the plan that a snapshot remembers, which has adapters and nothing else.

    Raises:
        CloraError: the file is neither a plan nor a snapshot.
        OSError: the file cannot be read.
    """
    data = read_regular_file(path, LARGEST_SAVED_FILE)
    # A plan has thousands of objects and no garbage: the collector would only slow its decoding.
    try:
        with collector_paused():
            return decode(data, path.name)
    except CloraError:
        if record.is_snapshot(record.top_level(data).keys()):
            return plan_of_snapshot(record.decode(data, path.name))
        raise


def plan_of_snapshot(snapshot: record.Snapshot) -> JobPlan:
    """Return a plan with the adapters of `snapshot`.

    A snapshot does not tell how its model is built: the plan can be looked at and not made again.
    """
    axes, totals = snapshot.layout, snapshot.totals
    lora = _lora(snapshot)
    return JobPlan(
        versions={},
        model_source="",
        model=ModelRecord(
            name=snapshot.job,
            class_name=snapshot.base.class_name,
            fingerprint=snapshot.base.fingerprint,
            modules=snapshot.base.modules,
            layer_pattern=snapshot.base.layer_pattern,
            towers=snapshot.base.towers,
        ),
        lora=lora,
        layout=Layout(**axes.sizes(), sp=axes.sp).resolved(),
        totals=Totals(
            base_params=snapshot.base.params,
            trainable_params=totals.params,
            placements=totals.placements,
            wrapped_modules=len({each.at.partition("[")[0] for each in snapshot.placements}),
            # Linears without an adapter are not in a snapshot: as far as it tells, all are adapted.
            linears=totals.placements,
            adapted_linears=totals.placements,
        ),
        rank_classes=tuple(
            _rank_class(axes, number, placements)
            for number, placements in enumerate(_placements_by_stage(snapshot, float(lora.alpha)))
        ),
        matches={},
        unmatched_targets=(),
        findings=(),
    )


def _placements_by_stage(snapshot: record.Snapshot, alpha: float) -> list[list[Placement]]:
    axes = snapshot.layout
    stages = [_layers(stage) for stage in axes.stages]
    by_stage: list[list[Placement]] = [[] for _ in range(axes.pp)]
    for each in snapshot.placements:
        layer = layer_of(each.at)
        # Adapters outside the layers, such as the output layer's, are shown on the first stage.
        stage = next((number for number, layers in enumerate(stages) if layer in layers), 0)
        by_stage[stage].append(_placement(each, axes, layer, alpha))
    return by_stage


def _rank_class(axes: record.SnapshotLayout, stage: int, placements: list[Placement]) -> RankClass:
    """Return the ranks of a pipeline stage; a snapshot does not tell which of them differ."""
    width = axes.model_world // axes.pp
    return RankClass(
        members=((stage * width, (stage + 1) * width - 1),),
        count=width,
        pp=stage,
        vpp=(0, axes.vpp - 1),
        ep=(0, axes.ep - 1),
        etp=(0, axes.expert_tp - 1),
        base_params=0,
        trainable_params=sum(placement.params for placement in placements),
        wrapped_modules=len({placement.module for placement in placements}),
        placements=tuple(placements),
        skipped=(),
    )


def _lora(snapshot: record.Snapshot) -> LoraRecord:
    """Return the settings that `snapshot` has, and the defaults where an older one lacks them."""
    # Targets are not among the settings of a snapshot: each adapter has its own, in `by`.
    kept = {name: snapshot.lora[name] for name in record.NUMERICS if name in snapshot.lora}
    defaults = lora_record(CanonicalLoRA())
    return msgspec.structs.replace(defaults, target_modules=None, exclude_modules=None, **kept)


def _layers(stage: str) -> set[int]:
    """Return the layers of a stage, which a snapshot writes as `0-3 8-11`."""
    return {
        number for found in _RANGE.finditer(stage) for number in range(int(found[1]), int(found[2] or found[1]) + 1)
    }


def _placement(each: record.PlacementLine, axes: record.SnapshotLayout, layer: int | None, alpha: float) -> Placement:
    # A factor without experts has two dims: the last names of each tuple.
    module, _, part = each.at.partition("[")
    a_axes = _axes(each.shard[0], ("experts", "rank", "in")[-len(each.a) :])
    b_axes = _axes(each.shard[1], ("experts", "out", "rank")[-len(each.b) :])
    a_shape, b_shape = _local(each.a, a_axes, axes), _local(each.b, b_axes, axes)
    return Placement(
        module=module,
        global_layer=layer,
        part=part.rstrip("]") or None,
        base_class="",
        wrapper="",
        adapter_class="",
        dim=each.rank,
        alpha=alpha,
        a_shape=a_shape,
        b_shape=b_shape,
        a_global_shape=each.a,
        b_global_shape=each.b,
        a_axes=a_axes,
        b_axes=b_axes,
        target=each.by,
        copies=each.copies,
        params=prod(a_shape) + prod(b_shape),
    )


def _axes(shard: str, dims: tuple[str, ...]) -> tuple[str | None, ...]:
    """Return the mesh axis of each dim for a split such as `experts/ep in/etp`, or `whole`."""
    split = dict(word.split("/", 1) for word in shard.split() if "/" in word)
    return tuple(split.get(dim) for dim in dims)


def _local(sizes: tuple[int, ...], axes: tuple[str | None, ...], layout: record.SnapshotLayout) -> tuple[int, ...]:
    return tuple(size // layout.sizes()[axis] if axis else size for size, axis in zip(sizes, axes, strict=True))
