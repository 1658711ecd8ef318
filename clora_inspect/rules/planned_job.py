"""`PlannedJob`, the input of every rule that looks at a plan: the plan, and what its owner means to
do with it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clora.families.base.model_kind import ModelKind
from clora.patterns import PatternSet, is_bare
from clora_inspect.rules.linears import Linear, linears_of
from clora_inspect.rules.reference import Reference, installed, released
from clora_inspect.rules.target_reading import Selections, by_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from clora.plan import Placement
    from clora_inspect.job.finding import Location
    from clora_inspect.job.place import Place
    from clora_inspect.job.plan import JobPlan, LoraRecord
    from clora_inspect.job.towers import Towers
    from clora_inspect.rules.reference import Fault


def nowhere(_key: str) -> Location | None:
    """Return no location: the job is written in no file."""
    return None


# No `slots`: `cached_property` keeps its values in `__dict__`.
@dataclass(frozen=True)
class PlannedJob:
    """One job on one layout, with the questions that several rules ask about it."""

    plan: JobPlan
    targets_written: bool = False
    """True if the user wrote `target_modules`. A target that matches nothing is then their mistake;
    otherwise it is an entry of the default list that this model has nothing for.
    """
    implementation: str = "clora"
    """Name of the library that will train the job: `clora` or `megatron-bridge`."""
    serve: str | None = None
    """The engine that will serve the adapter; None when it will not be served."""
    export: bool = False
    """True if the adapter will be exported to Hugging Face."""
    gpu_memory_gib: float | None = None
    """Memory of one GPU in GiB; None when the job does not name it."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`[rules]` of the configuration: code -> key -> value."""
    location_of: Callable[[str], Location | None] = nowhere
    """Key of the job (`lora.target_modules[4]`, `layout.tp`, `model`, `serve`) -> where it is
    written.
    """
    bridge_release: str | None = None
    """The release of Megatron-Bridge that will train the job; None for the one installed here."""
    installed_reference: Reference | None = None
    """The Megatron-Bridge that will train the job, in place of what the two fields before tell."""

    @cached_property
    def reference(self) -> Reference | None:
        """The Megatron-Bridge that will train the job; None when clora will."""
        if self.implementation != "megatron-bridge":
            return None
        if self.installed_reference:
            return self.installed_reference
        return released(self.bridge_release) if self.bridge_release else installed()

    def reference_with(self, fault: Fault) -> Reference | None:
        """Return the Megatron-Bridge that will train the job, for messages about `fault`; None if
        it does not have the fault.
        """
        reference = self.reference
        return replace(reference, about=fault) if reference and fault in reference.faults else None

    @property
    def turning_sp_on(self) -> tuple[str, str]:
        """The words that advise sequence parallelism, and the key of the job that they change."""
        # A function makes its config itself, so the layout's field may not reach it.
        if self.plan.model.family == ModelKind.USER_FUNCTION or self.plan.layout.sequence_parallel:
            return "set sequence_parallel = True in the config of the model", "model"
        return "turn sp on", "layout.sp"

    @property
    def config(self) -> dict[str, Any]:
        """Fields of the model's megatron-core config that are not the default."""
        return self.plan.model.config or {}

    @property
    def sequence_parallel(self) -> bool:
        """True if the model was built with sequence parallelism. A function decides by itself."""
        return bool(self.config.get("sequence_parallel", self.plan.layout.sequence_parallel))

    def modules_of(self, class_name: str) -> int:
        """Return how many modules of the model are of `class_name`, or of a class that ends so: a
        user's subclass is mostly called after its base.
        """
        modules = self.plan.model.modules or {}
        return sum(count for name, count in modules.items() if name.endswith(class_name))

    @property
    def lora(self) -> LoraRecord:
        """The resolved fields of the job's `CanonicalLoRA`."""
        return self.plan.lora

    @property
    def targets(self) -> tuple[str, ...]:
        """The entries of `target_modules`, each once."""
        return self.patterns["target_modules"]

    @cached_property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        """Name of the list -> the entries of `target_modules` or `exclude_modules`, each once."""
        return {name: tuple(dict.fromkeys(entries)) for name, entries in self._written_patterns.items()}

    @cached_property
    def _written_patterns(self) -> dict[str, tuple[str, ...]]:
        lora = self.lora
        return {"target_modules": lora.target_modules or (), "exclude_modules": lora.exclude_modules or ()}

    @property
    def is_gated(self) -> bool:
        """True if the MLPs have a gate."""
        return bool(self.config.get("gated_linear_unit"))

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """All canonical linears of the whole model, stage by stage; in a stage the adapted ones
        first.
        """
        # A model made by a function may have no config. Then both `linear_fc1_gate` and
        # `linear_fc1_up` are accepted for fc1, so that neither is reported as unmatched.
        return tuple(linears_of(self.plan, gated=self.is_gated or not self.config))

    @cached_property
    def adapted(self) -> tuple[Linear, ...]:
        """The linears with an adapter."""
        return tuple(linear for linear in self.linears if linear.placement is not None)

    @cached_property
    def unadapted(self) -> tuple[Linear, ...]:
        """The linears without an adapter."""
        return tuple(linear for linear in self.linears if linear.placement is None)

    @cached_property
    def placements(self) -> tuple[tuple[Linear, Placement], ...]:
        """The adapted linears, each with its adapter."""
        return tuple((linear, linear.placement) for linear in self.linears if linear.placement is not None)

    def adapted_in(self, *places: Place) -> list[Linear]:
        """Return the adapted linears that stand in one of `places`."""
        return [linear for linear in self.adapted if linear.place in places]

    def adapted_parts(self, *parts: str) -> list[Linear]:
        """Return the adapted linears that are one of the canonical `parts`, such as `"q"`."""
        return [linear for linear in self.adapted if linear.part in parts]

    def with_shared_pair(self) -> list[Linear]:
        """Return the adapted linears of experts where one pair of A and B serves all experts."""
        return [linear for linear in self.adapted if linear.shares_pair]

    def selected(self, target: str) -> tuple[Linear, ...]:
        """Return the linears that `target` selects."""
        return self.by_last_name.get(target, ()) if is_bare(target) else self.selections.of(target)

    @cached_property
    def towers(self) -> Towers:
        """The language model, vision and audio towers and projectors of the model."""
        return self.plan.towers

    def decoder_targets(self, names: Iterable[str]) -> list[str]:
        """Return targets that select the decoder's linears with these last names, and no others.

        That is the bare name where it selects nothing else, and a pattern such as
        `language_model.decoder.*.linear_q` where it does. Each was tried: names that the decoder
        does not have give no target.
        """
        found: list[str] = []
        for name in names:
            selected = self.by_last_name.get(name, ())
            inside = [one for one in selected if self.towers.in_decoder(one.local_path)]
            if len(inside) == len(selected):
                found += [name] if inside else []
                continue
            patterns = [f"{block}.*.{name}" for block in self.towers.decoder if block]
            found += [each for each in patterns if any(PatternSet([each]).matching(*one.names) for one in inside)]
        return found

    @cached_property
    def selections(self) -> Selections:
        """Linears that each entry of both lists selects."""
        return by_target((entry for entries in self.patterns.values() for entry in entries), self.linears)

    @cached_property
    def by_last_name(self) -> dict[str, tuple[Linear, ...]]:
        """Bare target -> the linears that it selects. Most targets are bare, and looking them up is
        much faster than matching every path.
        """
        found: dict[str, list[Linear]] = {}
        for linear in self.linears:
            for name in linear.names:
                found.setdefault(name.rsplit(".", 1)[-1], []).append(linear)
        return {name: tuple(linears) for name, linears in found.items()}

    def location_of_target(self, target: str) -> Location | None:
        """Return where `target` is written in `target_modules`."""
        return self.location_of_entry("target_modules", target)

    def location_of_entry(self, list_name: str, entry: str) -> Location | None:
        """Return where `entry` is written in `target_modules` or `exclude_modules`."""
        # The index counts entries as they are written, repeated ones too.
        number = self._written_at[list_name].get(entry)
        return self.location_of(f"lora.{list_name}" if number is None else f"lora.{list_name}[{number}]")

    @cached_property
    def _written_at(self) -> dict[str, dict[str, int]]:
        """Name of the list -> entry -> its first index in the list."""
        return {
            name: {entry: number for number, entry in reversed(list(enumerate(entries)))}
            for name, entries in self._written_patterns.items()
        }
