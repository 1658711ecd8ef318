"""`JobPlan`: what canonical LoRA does to a whole job, on every rank of its cluster. Frozen data and
its JSON; pure.

The JSON is a contract (`"schema": 1`): what the command prints with `-f json`, what `-o` saves, and
what every view reads back on a machine without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import ModelError
from clora.plan import Placement, Skip
from clora_inspect.job.cluster import Range
from clora_inspect.job.finding import Finding

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1


class RankClass(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks that hold the same modules with the same shapes. Parameters are those of one such rank.

    The axes give coordinates: `pp` is the stage's number; `vpp`, `ep` and `etp` are the inclusive
    ranges of virtual chunks, expert-parallel ranks and expert-tensor-parallel ranks that the class
    covers.
    """

    members: tuple[Range, ...]
    """Inclusive ranges of global ranks, in megatron-core's default rank order."""
    count: int
    pp: int
    vpp: Range
    ep: Range
    etp: Range
    base_params: int
    trainable_params: int
    wrapped_modules: int
    placements: tuple[Placement, ...]
    skipped: tuple[Skip, ...]


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The whole model, each parameter and module counted once whatever the layout."""

    base_params: int
    trainable_params: int
    placements: int
    wrapped_modules: int
    linears: int
    """Canonical linears of the decoder that could be adapted (`linear_qkv` counts 3); the router is
    not one.
    """
    adapted_linears: int


class LayoutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The layout with every default filled in."""

    tp: int
    pp: int
    vpp: int
    cp: int
    ep: int
    etp: int
    sp: bool
    world_size: int


class JobPlan(msgspec.Struct, frozen=True, kw_only=True, rename={"schema_version": "schema"}):
    """One job, planned."""

    schema_version: int = SCHEMA
    versions: dict[str, str]
    job: str
    model: dict[str, Any]
    """What was built: name, family, device, dtype, how an uneven pipeline was split, and
    `overrides`, fields that the user set.
    """
    lora: dict[str, Any]
    layout: LayoutRecord
    totals: Totals
    rank_classes: tuple[RankClass, ...]
    matches: dict[str, int]
    """Target -> canonical linears that it selects in the whole model."""
    unmatched_targets: tuple[str, ...]
    findings: tuple[Finding, ...]


def encode(plan: JobPlan, *, indent: int = 1) -> bytes:
    """The JSON document of `plan`, the same bytes for equal plans, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=indent) + b"\n"


def decode(data: bytes, origin: str) -> JobPlan:
    """Read a saved plan.

    Raises:
        ModelError: it is no JSON, no plan, or one of a newer schema.
    """
    try:
        plan = msgspec.json.decode(data, type=JobPlan)
    except msgspec.DecodeError as error:
        # A newer schema is the better reason. A plan has many megabytes: it is read twice only
        # where something is wrong.
        _refuse_newer(_schema_of(data), origin)
        raise ModelError(
            f"{origin} is no saved plan: {error}. Write one with: clora-inspect plan JOB -f json -o FILE"
        ) from None
    _refuse_newer(plan.schema_version, origin)
    return plan


class _AnySchema(msgspec.Struct):
    schema: Any = None


def _schema_of(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data, type=_AnySchema).schema
    except msgspec.DecodeError:
        return None


def _refuse_newer(schema: Any, origin: str) -> None:
    if isinstance(schema, int) and schema > SCHEMA:
        raise ModelError(
            f"{origin} is a plan of schema {schema}, and this version reads up to {SCHEMA}. Upgrade clora-inspect."
        )


def load(path: Path) -> JobPlan:
    """Read the plan saved at `path`.

    Raises:
        ModelError: see `decode`.
        OSError: the file cannot be read.
    """
    return decode(path.read_bytes(), str(path))
