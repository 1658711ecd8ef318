"""`PlannedJob`: what a rule looks at: a plan, and what its owner means to do with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clora.patterns import is_bare
from clora_inspect.rules.linears import Linear, linears_of
from clora_inspect.rules.reference import Reference, installed
from clora_inspect.rules.target_reading import selected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora.plan import Placement
    from clora_inspect.job.finding import Location
    from clora_inspect.job.plan import JobPlan, LoraRecord


def nowhere(_key: str) -> Location | None:
    """The place of a key of a job that is in no file."""
    return None


@dataclass(frozen=True)
class PlannedJob:
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
    """Key of the job (`lora.target_modules[4]`, `layout.tp`, `model`, `serve`) -> where it is
    written.
    """
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
        return self.plan.model.config or {}

    @property
    def lora(self) -> LoraRecord:
        """The resolved fields of `CanonicalLoRA`."""
        return self.plan.lora

    @property
    def targets(self) -> tuple[str, ...]:
        """`target_modules`."""
        return self.lora.target_modules or ()

    @property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """The two lists of patterns under the names of their fields."""
        return {"target_modules": self.targets, "exclude_modules": self.lora.exclude_modules or ()}

    @property
    def is_gated(self) -> bool:
        """Whether the MLPs have a gate."""
        return bool(self.config.get("gated_linear_unit"))

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """All canonical linears of the whole model, in model order within a stage: the adapted ones
        first.
        """
        return tuple(linears_of(self.plan, gated=self.is_gated or not self.config))

    @cached_property
    def adapted(self) -> tuple[Linear, ...]:
        """Those with an adapter."""
        return tuple(linear for linear in self.linears if linear.placement is not None)

    @cached_property
    def left(self) -> tuple[Linear, ...]:
        """Those without."""
        return tuple(linear for linear in self.linears if linear.placement is None)

    @cached_property
    def placements(self) -> tuple[tuple[Linear, Placement], ...]:
        """The adapted linears, each with its adapter."""
        return tuple((linear, linear.placement) for linear in self.linears if linear.placement is not None)

    def selected(self, target: str) -> tuple[Linear, ...]:
        """The linears that `target` selects."""
        if target not in self._selected:
            self._selected[target] = (
                self.by_last_name.get(target, ()) if is_bare(target) else tuple(selected(target, self.linears))
            )
        return self._selected[target]

    @cached_property
    def _selected(self) -> dict[str, tuple[Linear, ...]]:
        return {}

    @cached_property
    def by_last_name(self) -> dict[str, tuple[Linear, ...]]:
        """Bare target -> what it selects: many rules ask, and a large model has many linears."""
        found: dict[str, list[Linear]] = {}
        for linear in self.linears:
            for name in linear.names:
                found.setdefault(name.rsplit(".", 1)[-1], []).append(linear)
        return {name: tuple(linears) for name, linears in found.items()}

    def location_of_target(self, target: str) -> Location | None:
        """Where `target` stands in `target_modules`."""
        return self.location_of_entry("target_modules", target)

    def location_of_entry(self, field_name: str, entry: str) -> Location | None:
        """Where `entry` stands in a list of the LoRA."""
        entries = self.patterns[field_name]
        return self.location_of(
            f"lora.{field_name}[{entries.index(entry)}]" if entry in entries else f"lora.{field_name}"
        )
