"""`JobPlan`: what canonical LoRA does to a whole job, on every rank of its cluster. Pure data.

Its JSON is a contract (`"schema": 1`): `plan -f json` prints it, `-o` saves it, and every view can
read it back on a machine without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from clora.errors import ModelError
from clora.folders.regular_file import read_regular_file
from clora.layer_pattern import LayerPattern
from clora.limits import LARGEST_PLAN_ROWS
from clora.plan import Placement, Skip, Tower
from clora_inspect.job.cluster import Range
from clora_inspect.job.finding import Finding
from clora_inspect.job.flops import Flops
from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.layout import Layout
from clora_inspect.job.place import Place, place_in_layer
from clora_inspect.job.plan_damage import damage_of_plan
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.towers import LANGUAGE_MODEL, Towers
from clora_inspect.job.traffic import Traffic
from clora_inspect.job.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from clora.canonical_lora import CanonicalLoRA

SCHEMA = 1
"""The newest schema that is written and read. It grows when an old reader would misread a plan."""

LARGEST_SAVED_FILE = 1 << 30
"""Bytes. The plan of a model of a trillion parameters, every expert listed, is smaller."""


class RankClass(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks that hold the same modules with the same shapes: those of one pipeline stage.

    Numbers of parameters and modules are those of one rank. `vpp`, `ep` and `etp` are the ranges of
    virtual chunks, expert-parallel ranks and expert-tensor-parallel ranks in the class.
    """

    members: tuple[Range, ...]
    """Ranges of global ranks, in megatron-core's default rank order."""
    count: int
    """Number of ranks in the class."""
    pp: int
    """Number of the stage, from 0."""
    vpp: Range
    ep: Range
    etp: Range
    base_params: int
    trainable_params: int
    wrapped_modules: int
    placements: tuple[Placement, ...]
    skipped: tuple[Skip, ...]
    model_params: int | None = None
    """Number of parameters of the whole model that the stage has a share of, see `clora.Plan`. None
    in a plan that was read from a snapshot, or that an older version has saved.
    """
    matches: dict[str, int] | None = None
    """Target -> number of canonical linears that it selects on a rank; None as `model_params`."""
    memory: RankMemory | UnsetType = UNSET
    """The account of one rank's memory, where it was asked for."""
    traffic: tuple[Traffic, ...] | UnsetType = UNSET
    """Messages of one rank for a micro-batch, and once a step, where memory was asked for."""
    flops: Flops | UnsetType = UNSET
    """The floating-point operations of one rank for a micro-batch, likewise."""

    @property
    def first_rank(self) -> int:
        """The smallest global rank of the class."""
        return self.members[0][0]

    @property
    def last_rank(self) -> int:
        """The largest global rank of the class."""
        return self.members[-1][1]

    def layers_by_tower(self, towers: Towers) -> dict[Tower, tuple[int, ...]]:
        """Return, for each tower of which its ranks hold layers, their global numbers in order."""
        found: dict[Tower, set[int]] = {}
        entries: tuple[Placement | Skip, ...] = (*self.placements, *self.skipped)
        for entry in entries:
            if entry.global_layer is not None:
                found.setdefault(towers.of(entry.module), set()).add(entry.global_layer)
        return {tower: tuple(sorted(numbers)) for tower, numbers in found.items()}


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the whole model. Each parameter and module counts once, whatever the layout."""

    base_params: int
    trainable_params: int
    placements: int
    wrapped_modules: int
    linears: int
    """Canonical linears of the decoder that could be adapted: `linear_qkv` counts 3, a router 0."""
    adapted_linears: int


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"class_name": "class"}):
    """The model that was built.

    A plan that was read from a snapshot knows only `name`, `class_name`, `modules` and
    `fingerprint`; every other field is None there.
    """

    # The fields stand in the order of the JSON. The defaults are None and not empty values, because
    # `omit_defaults` would leave an empty list out of the JSON, and its readers expect the key.
    name: str
    """The model's name in messages, or the snapshot's job. A folder has its real name."""
    family: str | None = None
    """How it is built: `gpt`, `gemma2`, `mamba`, or `callable` for a user's function."""
    notes: tuple[str, ...] | None = None
    """Sentences for the user about how the model was read, for example what was cut."""
    dtype: str | None = None
    """Dtype of the weights, for example `bfloat16`; None where a function builds the model."""
    num_layers: int | None = None
    """Decoder layers of the whole model; None where a function builds it."""
    layer_pattern: str | None = None
    """A letter for each layer of a HybridModel or MambaModel, in which attention and MLP are layers
    of their own; None for other models.
    """
    hf_model_type: str | None = None
    """Hugging Face's `model_type`, which decides the names of its linears; None when not known."""
    names_architecture: bool | None = None
    """False if its config.json names no architecture, as the object under `text_config` of a larger
    model does not; else None.
    """
    pipeline_split: str | None = None
    """How the layers are spread over the stages, in words; None when pp is 1."""
    device: str | None = None
    """Where the modules were built: `meta`, `cpu` or `cuda`."""
    config: dict[str, Any] | None = None
    """The fields of megatron-core's config that are not the default. They stay a mapping: which
    fields there are depends on the release of megatron-core.
    """
    overrides: dict[str, Any] | None = None
    """Fields of the config that the user set. They let a saved plan be planned again."""
    class_name: str | None = None
    """Class of the model, for example `GPTModel`."""
    modules: dict[str, int] | None = None
    """Class name -> number of modules in the whole model."""
    fingerprint: str | None = None
    """Hash of every module's path, class and size."""
    bypassing: dict[str, str] | None = None
    """Class of modules that read the weights of the linears in them and never call them -> the
    field of the config that asks for it; None if the model has none.
    """
    towers: tuple[Tower, ...] | None = None
    """The towers of the model; None for a language model with its layers in `decoder`."""

    @property
    def weights_dtype(self) -> str:
        """The dtype to count bytes with. Where it is not known, bfloat16 is assumed."""
        return self.dtype or "bfloat16"


class LoraRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The resolved fields of `CanonicalLoRA`, in its order.

    A snapshot does not keep the two lists of patterns: they are None in a plan that was read from
    one.
    """

    target_modules: tuple[str, ...] | None = None
    exclude_modules: tuple[str, ...] | None = None
    dim: int
    # `int | float` keeps 32 and 32.0 apart, so that a plan that is read and written again has the
    # same bytes.
    alpha: int | float
    dropout: int | float
    dropout_position: str
    lora_A_init_method: str  # noqa: N815  # the public name of CanonicalLoRA's field
    lora_B_init_method: str  # noqa: N815
    normalize_moe_lora: bool
    share_expert_adapters: bool

    def fields(self) -> dict[str, Any]:
        """Return the arguments that build the same `CanonicalLoRA`, as JSON values."""
        # msgspec leaves tuples as they are, and the fields of CanonicalLoRA are lists.
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def lora_record(lora: CanonicalLoRA) -> LoraRecord:
    """Return the fields of `lora` as they were resolved."""
    return LoraRecord(
        target_modules=tuple(lora.target_modules),
        exclude_modules=tuple(lora.exclude_modules),
        dim=lora.dim,
        alpha=lora.alpha,
        dropout=lora.dropout,
        dropout_position=lora.dropout_position,
        lora_A_init_method=lora.lora_A_init_method,
        lora_B_init_method=lora.lora_B_init_method,
        normalize_moe_lora=lora.normalize_moe_lora,
        share_expert_adapters=lora.share_expert_adapters,
    )


class JobPlan(msgspec.Struct, frozen=True, kw_only=True, rename={"schema_version": "schema", "model_source": "job"}):
    """The plan of a job."""

    schema_version: int = SCHEMA
    versions: dict[str, str]
    """Package -> version, for the packages that can change a plan."""
    model_source: str
    """Where the model comes from, as the user named it: an architecture, a config.json or its
    folder, or `package.module:function`. Empty in a plan that was read from a snapshot, which
    cannot be planned again.
    """
    model: ModelRecord
    lora: LoraRecord
    layout: Layout
    """The layout with every default written out, see `Layout.resolved`."""
    totals: Totals
    rank_classes: tuple[RankClass, ...]
    matches: dict[str, int]
    """Target -> number of canonical linears that it selects in the whole model."""
    unmatched_targets: tuple[str, ...]
    workload: Workload | UnsetType = UNSET
    """The micro-batches that the memory of the rank classes is for."""
    uncounted: str | UnsetType = UNSET
    """Why a check could not count that memory, as sentences."""
    findings: tuple[Finding, ...]
    """Findings that planning itself makes: unmatched targets, and a LoRA that adapts nothing."""

    @property
    def pattern(self) -> LayerPattern | None:
        """The letters of the layers of a HybridModel; None for a model of another class."""
        letters = self.model.layer_pattern
        return None if letters is None else LayerPattern(letters)

    # `cached_property` needs a `__dict__`, and msgspec's structs have none.
    @property
    def towers(self) -> Towers:
        """The towers of the model."""
        return LANGUAGE_MODEL if self.model.towers is None else Towers(self.model.towers)

    def layers_of(self, ranks: RankClass) -> tuple[int, ...]:
        """Return the global numbers of the language model's layers that `ranks` hold, in order."""
        towers = self.towers
        by_tower = ranks.layers_by_tower(towers)
        return tuple(sorted({layer for tower, held in by_tower.items() if towers.is_main(tower) for layer in held}))

    @property
    def planned_by(self) -> ImplementationName:
        """The implementation whose surgery it shows."""
        return "megatron-bridge" if "megatron-bridge" in self.versions else "clora"

    @property
    def has_experts(self) -> bool:
        """True if the model has routed experts, which ep and etp spread over ranks."""
        return any(has_experts(ranks.placements, ranks.skipped) for ranks in self.rank_classes)


def has_experts(placements: Iterable[Placement], skipped: Iterable[Skip]) -> bool:
    """Return whether any of the modules is one of routed experts."""
    paths = (*(placement.module for placement in placements), *(skip.module for skip in skipped))
    return any(place_in_layer(path) is Place.EXPERTS for path in paths)


def encode(plan: JobPlan) -> bytes:
    """Return the JSON of `plan`, ending in a newline. Equal plans have equal bytes."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"


def decode(data: bytes, origin: str) -> JobPlan:
    """Read the JSON of a plan; `origin` names its file in messages.

    Raises:
        ModelError: the JSON is damaged, is no plan, or has a newer schema.
    """
    # Counted before they are decoded, which takes a kilobyte for each.
    rows = data.count(b'"module"')
    if rows > LARGEST_PLAN_ROWS:
        raise ModelError(
            f"{origin} has {rows:,} placements and skips, and {LARGEST_PLAN_ROWS:,} is the most: that is no saved plan."
        )
    try:
        plan = msgspec.json.decode(data, type=JobPlan)
    # Deep nesting ends in a RecursionError.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # If the schema is newer, that is the better message. A plan may have many megabytes, so it
        # is parsed a second time only after an error.
        _refuse_newer(_schema_of(data), origin)
        raise ModelError(
            f"{origin} is no saved plan: {error}. Write one with: clora-inspect plan JOB -f json -o FILE"
        ) from None
    _refuse_newer(plan.schema_version, origin)
    damage = damage_of_plan(plan)
    if damage is not None:
        raise ModelError(
            f"{origin} is a damaged plan: {damage}. Write it again with: clora-inspect plan JOB -f json -o FILE"
        )
    return plan


class _AnySchema(msgspec.Struct):
    schema: Any = None


def _schema_of(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data, type=_AnySchema).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _refuse_newer(schema: Any, origin: str) -> None:
    if isinstance(schema, int) and schema > SCHEMA:
        raise ModelError(
            f"{origin} is a plan of schema {schema}, and this version reads up to {SCHEMA}. Upgrade clora-inspect."
        )


def load(path: Path) -> JobPlan:
    """Read the plan that was saved at `path`.

    Raises:
        ModelError: as `decode`.
        OSError: the file cannot be read.
    """
    return decode(read_regular_file(path, LARGEST_SAVED_FILE), str(path))
