"""`Subject`: what a rule looks at: the plan of a job, and what the user intends with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from clora.errors import CloraError
from clora.plan import Reason
from clora_inspect.module_path import global_path
from clora_inspect.rules.reference import Reference, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora.plan import Placement, Skip
    from clora_inspect.finding import Location
    from clora_inspect.jobplan import JobPlan, RankClass
    from clora_inspect.rules.base import Rule, RuleSettings

S = TypeVar("S", bound="RuleSettings")


class RuleSettingsError(CloraError):
    """`[rules.CODE]` of the configuration has a key or a value that the rule does not have."""


def nowhere(_key: str) -> Location | None:
    """The place of a key of a job that is in no file."""
    return None


@dataclass(frozen=True, slots=True)
class Adapted:
    """A placement with its place in the whole model."""

    placement: Placement
    rank_class: RankClass
    path: str
    """Path of the module with its global layer number."""

    @property
    def at(self) -> str:
        """Path and canonical part."""
        return f"{self.path}[{self.placement.part}]" if self.placement.part else self.path


@dataclass(frozen=True, slots=True)
class Left:
    """A linear (or a part of one) without an adapter, with its place in the whole model."""

    skip: Skip
    rank_class: RankClass
    path: str

    @property
    def at(self) -> str:
        """Path and canonical part."""
        return f"{self.path}[{self.skip.part}]" if self.skip.part else self.path


@dataclass(frozen=True)
class Subject:
    """One job on one layout."""

    plan: JobPlan
    targets_written: bool = False
    """The user wrote `target_modules`: one that matches nothing is his mistake, not our default's."""
    implementation: str = "clora"
    """`clora` or `megatron-bridge`: what will train it."""
    serve: str | None = None
    """The engine that will serve the adapter."""
    export: bool = False
    """The adapter will be exported to Hugging Face."""
    gpu_memory_gib: float | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`[rules]` of the configuration: code -> key -> value."""
    location_of: Callable[[str], Location | None] = nowhere
    """Key of the job (`lora.target_modules[4]`, `layout.tp`, `model`, `serve`) -> where it is written."""
    installed_reference: Reference | None = None
    """What is known of the Megatron-Bridge that will train it; None: that of this environment."""

    @cached_property
    def reference(self) -> Reference | None:
        """The Megatron-Bridge that will train it; None when ours will."""
        if self.implementation != "megatron-bridge":
            return None
        return self.installed_reference or installed()

    @property
    def config(self) -> dict[str, Any]:
        """Fields of the model's megatron-core config that are not the default."""
        config: dict[str, Any] = self.plan.model.get("config", {})
        return config

    @property
    def lora(self) -> dict[str, Any]:
        """The resolved fields of `CanonicalLoRA`."""
        return self.plan.lora

    @property
    def targets(self) -> list[str]:
        """`target_modules`."""
        targets: list[str] = self.lora["target_modules"]
        return targets

    @cached_property
    def adapted(self) -> tuple[Adapted, ...]:
        """All placements, in model order."""
        return tuple(
            Adapted(placement, ranks, global_path(placement.module, placement.global_layer))
            for ranks in self.plan.rank_classes
            for placement in ranks.placements
        )

    @cached_property
    def left(self) -> tuple[Left, ...]:
        """All linears, and parts of partly adapted ones, that get no adapter, in model order."""
        return tuple(
            Left(skip, ranks, global_path(skip.module, skip.global_layer))
            for ranks in self.plan.rank_classes
            for skip in ranks.skipped
            if skip.reason in (Reason.NOT_TARGETED, Reason.EXCLUDED)
        )

    def location_of_target(self, target: str) -> Location | None:
        """Where `target` stands in `target_modules`."""
        return self.location_of_entry("target_modules", target)

    def location_of_entry(self, field_name: str, entry: str) -> Location | None:
        """Where `entry` stands in a list of the LoRA."""
        entries: list[str] = self.lora[field_name]
        return self.location_of(
            f"lora.{field_name}[{entries.index(entry)}]" if entry in entries else f"lora.{field_name}"
        )

    def settings_of(self, rule: type[Rule], kind: type[S]) -> S:
        """The settings of `rule`, its defaults where the user set none.

        Raises:
            RuleSettingsError: a key or a value that the rule does not have.
        """
        return converted(rule, self.settings.get(rule.code, {}), kind)


def converted(rule: type[Rule], written: Mapping[str, Any], kind: type[S]) -> S:
    """`written` as settings of `rule`.

    Raises:
        RuleSettingsError: a key or a value that the rule does not have.
    """
    try:
        return msgspec.convert(dict(written), type=kind)
    except msgspec.ValidationError as error:
        known = ", ".join(kind.__struct_encode_fields__) or "none"
        raise RuleSettingsError(f"[rules.{rule.code}]: {error}. Settings of {rule.name}: {known}.") from None
