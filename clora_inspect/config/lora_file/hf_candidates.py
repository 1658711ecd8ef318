"""List the linears that a model may have, with their names at Hugging Face and the targets that
select them here.

No model is built. So the list may name a linear that a layer lacks, for example a dense MLP beside
experts. Both libraries then select nothing there, and the list needs no facts about single layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.families import families
from clora.fused import FUSED
from clora.hf_names import NoHFLinear, hf_linears
from clora.plan import ExpertFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.families.base.linear_names import LinearNames
    from clora_inspect.sources.definition import ModelDefinition


@dataclass(frozen=True, slots=True)
class Candidate:
    """One Hugging Face linear, or one of each routed expert, and what holds its adapter here."""

    keys: tuple[str, ...]
    """Paths in the Hugging Face model: one, or one for each expert. Empty for a linear that no
    linear there stands for, so that PEFT leaves it alone.
    """
    names: tuple[str, ...]
    """Last names of the targets, such as `linear_q`. Several if the linear is fused there: one
    adapter of it is several here.
    """
    members: int
    """How many of the keys are one linear here: 2 if it is gate and up of one expert, else 1."""
    parent: str
    """Path of the linear's parent in its layer, `self_attention`; "" outside of all layers."""
    layer: int | None

    @property
    def is_fused(self) -> bool:
        """True if one linear there is several here."""
        return len(self.names) > self.members


@dataclass(frozen=True, slots=True)
class _Named:
    """The fields of a placement that `hf_linears` reads."""

    module: str
    global_layer: int | None
    part: str | None = None
    experts: ExpertFacts | None = None


def candidates(definition: ModelDefinition, inside: str | None) -> Iterator[Candidate]:
    """Yield the linears of a model whose `model_type` is known.

    Args:
        definition: the model.
        inside: `model_type` of the model of several modalities that it is the text model of.
    """
    model_type = definition.model_type or ""
    names = families()[model_type].names
    for layer in range(definition.config["num_layers"]):
        yield from _in_layer(definition, names, model_type, inside, layer)
    yield Candidate(("lm_head",), ("output_layer",), 1, "", None)


def _in_layer(
    definition: ModelDefinition, names: LinearNames, model_type: str, inside: str | None, layer: int
) -> Iterator[Candidate]:
    experts = _expert_facts(definition)
    gated = bool(definition.config.get("gated_linear_unit"))
    prefix = ""
    for path, part in _paths(definition, names, gated=gated):
        parent, _, last = path.rpartition(".")
        in_experts = parent.endswith(".experts")
        named = _Named(f"decoder.layers.{layer}.{path}", layer, part, experts if in_experts else None)
        found = hf_linears(named, model_type, inside=inside)
        keys = () if isinstance(found, NoHFLinear) else tuple(linear.module for linear in found)
        if last == "linear_proj" and keys:
            prefix = keys[0].rpartition(".")[0]
        if in_experts and not definition.config.get("moe_grouped_gemm"):
            parent += ".local_experts.*"
        targets = _targets(last, part, gated=gated)
        # One pair for gate and up of an expert; everywhere else, all keys are of their own.
        members = 2 if in_experts and len(targets) == 2 and (names.expert_projections or names.projections)[0] else 1
        yield Candidate(keys, targets, members, parent, layer)
    # The family says that q, k and v are one linear, and no part has a name.
    if "linear_qkv" in names.reasons and prefix:
        yield Candidate((f"{prefix}.qkv_proj",), tuple(FUSED["linear_qkv"].values()), 1, "self_attention", layer)


def _targets(last: str, part: str | None, *, gated: bool) -> tuple[str, ...]:
    """Return the targets that select a linear here: those of all parts if Hugging Face has one
    linear for them.
    """
    if part:
        return (FUSED[last][part],)
    if last == "linear_fc1":
        return tuple(FUSED[last].values()) if gated else (FUSED[last]["up"],)
    return (last,)


def _paths(definition: ModelDefinition, names: LinearNames, *, gated: bool) -> Iterator[tuple[str, str | None]]:
    """Yield the path in a layer, and the canonical part, of each linear of the family."""
    for own in names.attention:
        name, _, canonical = own.partition("[")
        yield f"self_attention.{name}", canonical.removesuffix("]") or None
    for name in names.mamba:
        yield f"mixer.{name}", None
    if names.mamba:
        yield "mixer.out_proj", None
    parents = [("mlp", names.projections)]
    if names.shared_experts:
        parents.append(("mlp.shared_experts", names.projections))
    if definition.has_experts:
        parents.append(("mlp.experts", names.expert_projections or names.projections))
    grouped = definition.config.get("moe_grouped_gemm")
    for parent, projections in parents:
        # Without a name for the gate, gate and up are one linear there, or there is no gate. In
        # grouped experts they are one linear here.
        whole = projections[0] is None or (grouped and parent.endswith(".experts"))
        parts: tuple[str | None, ...] = (None,) if whole else ("gate", "up") if gated else ("up",)
        for part in parts:
            yield f"{parent}.linear_fc1", part
        yield f"{parent}.linear_fc2", None


def _expert_facts(definition: ModelDefinition) -> ExpertFacts:
    number = definition.config.get("num_moe_experts") or 0
    return ExpertFacts(num_experts=number, num_local_experts=number, per_expert=True, ep=1, etp=1)
