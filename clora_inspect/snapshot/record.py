"""`Snapshot`: a job's adapters on one layout, and the file that keeps them. Pure.

The file has one placement a line, so that `git diff` reads like a table, and the same bytes on
every machine: nothing in it depends on versions or on the time. Layer numbers and shapes are the
whole model's. Where the pipeline is cut and how wide tp is shows in `layout` and `shard` only, so
another layout moves no line of the placements.
"""

from __future__ import annotations

import json
import re
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec

from clora.fused import FUSED
from clora.limits import LARGEST_SNAPSHOT_LINES
from clora.plan import Tower
from clora_inspect.job.layer_ranges import runs_of
from clora_inspect.job.layout import Mesh
from clora_inspect.job.module_path import global_path, natural
from clora_inspect.snapshot.damage import NUMERIC_TYPES, damage_of_snapshot
from clora_inspect.snapshot.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from clora.plan import Placement
    from clora_inspect.job.plan import JobPlan

SCHEMA = 1
"""The newest schema that is written and read."""

LARGEST_FILE = 256 * 1024 * 1024
"""Bytes. A snapshot of the largest model has a few hundred thousand, so a larger file is something
else, and reading it could exhaust the memory.
"""

NUMERICS = tuple(NUMERIC_TYPES)
"""Fields of `CanonicalLoRA` that a snapshot keeps. The other two, the lists of patterns, show in
the placements.
"""

# How `encode` begins a file, and how git begins one with a conflict in its first line.
_BEGINNING = re.compile(rb'(?:<<<<<<<[^\n]*\r?\n)?\{\s*"schema":\s*\d+,\s*"job":')

# Canonical part -> its number in the fused linear.
_PARTS = {part: number for parts in FUSED.values() for number, part in enumerate(parts)}


# Unknown fields are refused in a snapshot: a misspelt key must not pass for an unchanged default.


class PlacementLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One adapter of the whole model."""

    at: str
    """Path with the global layer number, and the canonical part:
    `decoder.layers.16.self_attention.linear_qkv[q]`.
    """
    a: tuple[int, ...]
    """Shape of A in the whole model, `[rank, in]`, or `[experts, rank, in]` with a pair for each
    expert.
    """
    b: tuple[int, ...]
    """Shape of B in the whole model, `[out, rank]` or `[experts, out, rank]`."""
    shard: tuple[str, str]
    """How A and B are split: `rank/tp`, `out/tp`, `experts/ep in/etp`, `whole`."""
    by: str | None = None
    """The target that chose it. None when all linears are adapted but the excluded ones."""
    copies: int = 1
    """Number of modules that the line stands for: a sequential expert stands for one on each rank
    of ep.
    """

    @property
    def params(self) -> int:
        """Parameters of A and B in the whole model."""
        return (prod(self.a) + prod(self.b)) * self.copies

    @property
    def rank(self) -> int:
        return self.b[-1]


class Base(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename={"class_name": "class"},
):
    """The base model, without regard to what is adapted in it."""

    class_name: str
    fingerprint: str
    """Hash of every module's path, class and size."""
    modules: dict[str, int]
    """Class name -> number of modules in the whole model."""
    params: int
    layer_pattern: str | None = None
    """The letters of the layers of a HybridModel that stands for a GPTModel: by them its placements
    are compared with those of the GPTModel. None for any other model.
    """
    towers: tuple[Tower, ...] | None = None
    """The towers of the model; None, and not in the file, for a language model with its layers in
    `decoder`.
    """


class SnapshotLayout(Mesh, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of the mesh axes, and which layers stand on which pipeline stage.

    The width of the data-parallel axis is left out: it changes no adapter.
    """

    stages: tuple[str, ...]
    """Global layers of each stage: `0-15`; `0-3 8-11` where it holds several chunks."""


class SnapshotTotals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sums over the placements. They reveal a line that was lost or edited."""

    params: int
    placements: int


class RunFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts of a run beside its adapters."""

    world_size: int
    """Number of ranks."""
    config: dict[str, Any]
    """The fields of the model's config that are not the default, as JSON values, and the dtypes of
    the weights.
    """
    versions: dict[str, str]
    """Package -> version."""


class Snapshot(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}
):
    """The content of one file."""

    schema_version: int = SCHEMA
    job: str
    layout: SnapshotLayout
    base: Base
    lora: dict[str, int | float | str | bool]
    totals: SnapshotTotals
    run: RunFacts | None = None
    """Only in the record of a run, which the gate wrote; None for a plan of a job."""
    placements: tuple[PlacementLine, ...]


_KEYS = frozenset(field.encode_name for field in msgspec.structs.fields(Snapshot) if field.required)


def take(plan: JobPlan, job: str) -> Snapshot:
    """Return the snapshot of `plan`, for the job called `job`."""
    placements = [placement for rank_class in plan.rank_classes for placement in rank_class.placements]
    lines = sorted(map(line_of, placements), key=_order)
    return Snapshot(
        job=job,
        layout=SnapshotLayout(
            **plan.layout.sizes(),
            sp=plan.layout.sequence_parallel,
            stages=tuple(stage_text(plan.layers_of(rank_class)) for rank_class in plan.rank_classes),
        ),
        base=Base(
            class_name=plan.model.class_name or "",
            fingerprint=plan.model.fingerprint or "",
            modules=plan.model.modules or {},
            params=plan.totals.base_params,
            layer_pattern=plan.pattern.letters if plan.pattern and plan.pattern.is_of_pairs else None,
            towers=plan.model.towers,
        ),
        lora={name: _number(name, getattr(plan.lora, name)) for name in NUMERICS},
        totals=_totals(lines),
        placements=tuple(lines),
    )


def with_placements(snapshot: Snapshot, lines: Iterable[PlacementLine]) -> Snapshot:
    """Return `snapshot` with other placements, put in order, and with their totals."""
    ordered = sorted(lines, key=_order)
    return msgspec.structs.replace(snapshot, placements=tuple(ordered), totals=_totals(ordered))


def encode(snapshot: Snapshot) -> bytes:
    """Return the file's bytes: keys sorted, one placement a line, a newline at the end."""
    # Written by hand, because no JSON writer puts one placement on a line and the head on others.
    head = {
        "schema": snapshot.schema_version,
        "job": snapshot.job,
        "layout": msgspec.to_builtins(snapshot.layout),
        "base": msgspec.to_builtins(snapshot.base),
        "lora": snapshot.lora,
        "totals": msgspec.to_builtins(snapshot.totals),
        **({"run": msgspec.to_builtins(snapshot.run)} if snapshot.run else {}),
    }
    lines = [f" {_json(name)}: {_json(value, sort=True)},\n" for name, value in head.items()]
    placements = ",\n".join(f"  {_json(msgspec.to_builtins(placement))}" for placement in snapshot.placements)
    lines.append(f' "placements": [\n{placements}\n ]\n' if placements else ' "placements": []\n')
    return ("{\n" + "".join(lines) + "}\n").encode()


class _AnySchema(msgspec.Struct):
    schema: Any = None


def top_level(data: bytes) -> dict[str, msgspec.Raw]:
    """Return the top level of a JSON document, its values not decoded; empty for anything else."""
    try:
        return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def is_snapshot(keys: AbstractSet[str]) -> bool:
    """Tell a snapshot from other JSON documents by its top-level keys; it may still be damaged."""
    return keys >= {"layout", "totals", "placements"}


def was_written_by_us(data: bytes) -> bool:
    """Tell a snapshot, whole or damaged, from everything else that a file may hold.

    Only such a file may be replaced or deleted. An empty one counts: nothing in it can be lost.
    """
    keys = top_level(data).keys()
    # A damaged file, or one with the markers of a merge, is known by how it begins.
    return keys >= _KEYS if keys else not data or bool(_BEGINNING.match(data))


def decode(data: bytes, origin: str) -> Snapshot:
    """Read the bytes of a snapshot file; `origin` names it in messages.

    Raises:
        SnapshotError: the file is damaged, in the middle of a merge or of a newer schema, or its
            totals are not those of its placements.
    """
    # git leaves both sides of a conflict in the file, and a JSON parser would only call it damaged.
    if any(line.startswith((b"<<<<<<<", b">>>>>>>", b"|||||||")) for line in data.splitlines()):
        raise SnapshotError(
            f"{origin} has the markers of an unfinished merge. Take either side, then: {_accept(origin)}"
        )
    # Counted before they are decoded, which takes a kilobyte for each.
    lines = data.count(b'"at"')
    if lines > LARGEST_SNAPSHOT_LINES:
        raise SnapshotError(
            f"{origin} has {lines:,} placements, and {LARGEST_SNAPSHOT_LINES:,} is the most: that is no snapshot."
        )
    try:
        # The schema comes first: a newer file may have fields that are unknown here, and would be
        # called damaged.
        schema = msgspec.json.decode(data, type=_AnySchema).schema
        if isinstance(schema, int) and schema > SCHEMA:
            raise SnapshotError(
                f"{origin} has schema {schema}, and this version reads up to {SCHEMA}. Upgrade clora-inspect."
            )
        snapshot = msgspec.json.decode(data, type=Snapshot)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(
            f"{origin} is damaged: {error}. Restore it from the repository's history, or: {_accept(origin)}"
        ) from None
    # Merging two branches without a conflict can drop or repeat a placement.
    found = _totals(snapshot.placements)
    if found != snapshot.totals or len({line.at for line in snapshot.placements}) != len(snapshot.placements):
        raise SnapshotError(
            f"{origin} was edited by hand: it lists {found.placements:,} placements with {found.params:,} "
            f"parameters, and its totals say {snapshot.totals.placements:,} with {snapshot.totals.params:,}. "
            f"Restore it from the repository's history, or: {_accept(origin)}"
        )
    damage = damage_of_snapshot(snapshot)
    if damage is not None:
        raise SnapshotError(
            f"{origin} is damaged: {damage}. Restore it from the repository's history, or: {_accept(origin)}"
        )
    return snapshot


def _number(name: str, value: Any) -> Any:
    # An alpha of 32 and one of 32.0 are equal, and must give equal files.
    return float(value) if name in ("alpha", "dropout") else value


def line_of(placement: Placement) -> PlacementLine:
    """Return the line of one adapter, with the layer number and the shapes of the whole model."""
    path = global_path(placement.module, placement.global_layer)
    return PlacementLine(
        at=f"{path}[{placement.part}]" if placement.part else path,
        a=placement.a_global_shape,
        b=placement.b_global_shape,
        shard=(
            _shard(placement.a_axes, ("experts", "rank", "in")),
            _shard(placement.b_axes, ("experts", "out", "rank")),
        ),
        by=placement.target,
        copies=placement.copies,
    )


def _shard(axes: tuple[str | None, ...], dims: tuple[str, str, str]) -> str:
    # `axes` has no entry for the experts when they share a pair.
    split = [f"{dim}/{axis}" for dim, axis in zip(dims[-len(axes) :], axes, strict=True) if axis]
    return " ".join(split) or "whole"


def _order(line: PlacementLine) -> tuple[object, ...]:
    """Return the sort key: paths with layer 2 before layer 10, then parts as they are packed."""
    module, _, part = line.at.removesuffix("]").partition("[")
    return natural(module), _PARTS.get(part, 0)


def stage_text(layers: Iterable[int]) -> str:
    """Write the layers of a stage as `0-3 8-11`."""
    runs = runs_of(layers)
    return " ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def _totals(lines: Iterable[PlacementLine]) -> SnapshotTotals:
    lines = list(lines)
    return SnapshotTotals(params=sum(line.params for line in lines), placements=sum(line.copies for line in lines))


def _json(value: Any, *, sort: bool = False) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort, separators=(",", ":"))


def _accept(origin: str) -> str:
    """Return the command that writes the file anew; `origin` ends in `JOB/LAYOUT.json`."""
    parts = origin.rsplit("/", 2)
    return f"clora-inspect snapshot accept {parts[-2]}" if len(parts) > 1 else "clora-inspect snapshot accept"
