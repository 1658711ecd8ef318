"""Model + CanonicalLoRA -> Plan. Walks the modules once, reads facts, changes nothing.

The story for one module: its facts (`linears.describe`), the names it answers to (its own, or those
of its canonical parts), the targets that choose each of them (`_Chooser`), and then a placement per
chosen part, or the reason why not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Protocol

from clora import linears
from clora.errors import GeometryError, NotAdaptableError, TargetError
from clora.fused import FUSED
from clora.linears import LinearFacts, ParallelKind
from clora.patterns import canonical_names, matches, names_a_number
from clora.plan import ExpertFacts, Placement, Plan, Reason, Skip
from clora.wrappers import base_children, base_class_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

WRAPPERS = {"linear_qkv": "LoRALinearSplitQKV", "linear_fc1": "LoRALinearSplitFC1UpGate"}
"""Last name of a fused linear -> the wrapper that holds an adapter for each of its parts."""


class PlanOptions(Protocol):
    """The fields of `CanonicalLoRA` that a plan depends on.

    The planner names the fields and not the class, because the class imports the planner.
    """

    target_modules: list[str]
    exclude_modules: list[str]
    dim: int
    alpha: float
    normalize_moe_lora: bool
    share_expert_adapters: bool


def plan_model(model: nn.Module | Sequence[nn.Module], lora: PlanOptions) -> Plan:
    """Plan `lora` on `model`, one rank's model or the list of its virtual pipeline chunks. `lora`
    is validated already.

    Raises:
        NotAdaptableError: a target hits a module with parameters and no LoRA form.
        GeometryError: `dim` does not divide as the layout asks.
    """
    chunks = list(model) if isinstance(model, Sequence) else [model]
    matcher = _TargetMatcher(lora)
    placements: list[Placement] = []
    skipped: list[Skip] = []
    base_params = model_params = 0
    for number, chunk in enumerate(chunks):
        inner = linears.unwrap(chunk)
        for visit in _walk(inner, number):
            base_params += visit.params
            model_params += visit.model_params
            if not visit.path:
                continue
            adapted, skips = _decide(visit, matcher, lora)
            placements += adapted
            skipped += skips
    return Plan(
        placements=tuple(placements),
        skipped=tuple(skipped),
        matches=matcher.matches,
        base_params=base_params,
        model_params=model_params,
    )


def plan_module(module: nn.Module, path: str, lora: PlanOptions) -> tuple[Placement, ...]:
    """The placements at the one module at `path`; empty when it is not chosen. Raises as
    `plan_model` does.
    """
    layer = linears.layer_number(module)
    visit = _visit(module, path, 0, None if layer is None else layer - 1, tp=1)
    return tuple(_decide(visit, _TargetMatcher(lora), lora)[0])


@dataclass(frozen=True, slots=True)
class _Visit:
    """One module on the walk."""

    module: nn.Module
    path: str
    chunk: int
    global_layer: int | None
    facts: LinearFacts | None
    params: int
    """Elements of its own parameters on this rank."""
    model_params: int
    """And in the whole model, each counted once."""

    @property
    def copies(self) -> int:
        """A sequential expert stands for one expert on every ep rank."""
        return self.facts.ep if self.facts and self.facts.is_expert and not self.facts.num_local_experts else 1

    @property
    def parts(self) -> dict[str | None, int]:
        """Canonical part -> output rows of all ranks; the single key None for a linear adapted as a
        whole.
        """
        if self.facts is None:
            return {}
        if self.facts.fused is None:
            return {None: self.facts.out_features}
        return {part: self.facts.fused.out_features_by_part[part] for part in self.facts.parts}

    def names_of(self, part: str | None) -> tuple[str, ...]:
        """The paths by which `part` is addressed in targets; a fused linear adapted as a whole
        answers to all its parts.
        """
        if self.facts is None or not self.facts.parts:
            return (self.path,)
        canonical = canonical_names(self.path)
        return tuple(canonical[held] for held in ((part,) if part else self.facts.parts))


@dataclass
class _TargetMatcher:
    """Which target chooses a name, and how often each target did."""

    lora: PlanOptions
    matches: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.matches = dict.fromkeys(self.lora.target_modules, 0)

    @property
    def adapts_all_linears(self) -> bool:
        return not self.lora.target_modules

    def targets_of(self, names: tuple[str, ...]) -> list[str]:
        """The targets that select a canonical linear known by `names`; each of them is counted
        once.
        """
        chosen = [target for target in self.lora.target_modules if any(matches(target, name) for name in names)]
        for target in chosen:
            self.matches[target] += 1
        return chosen

    def exclusion_of(self, names: tuple[str, ...]) -> str | None:
        return next((entry for entry in self.lora.exclude_modules if any(matches(entry, name) for name in names)), None)


def _walk(model: nn.Module, chunk: int) -> Iterator[_Visit]:
    """Every module below `model`, parents first, with the number of the layer it stands in.

    Multi-token-prediction layers are numbered after the decoder's, as in Hugging Face checkpoints.
    """
    stack: list[tuple[str, nn.Module, int | None]] = [("", model, None)]
    num_layers = linears.num_layers(model)
    tp = linears.tensor_parallel_size(model)
    seen: set[int] = set()
    while stack:
        path, module, layer = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        if (
            layer is None
            and path.rpartition(".")[0].endswith("layers")
            and (number := linears.layer_number(module)) is not None
        ):
            layer = number - 1 + (num_layers if path.startswith("mtp.") else 0)
        yield _visit(module, path, chunk, layer, tp)
        children = [(f"{path}.{name}" if path else name, child, layer) for name, child in base_children(module)]
        stack.extend(reversed(children))


def _visit(module: nn.Module, path: str, chunk: int, global_layer: int | None, tp: int) -> _Visit:
    """Look at one module: its facts, and its parameters counted once (a grouped linear has
    hundreds).
    """
    facts = linears.describe(module, path) if path else None
    params, model_params = linears.parameter_counts(module, facts, tp)
    return _Visit(module, path, chunk, global_layer, facts, params, model_params)


def _decide(visit: _Visit, matcher: _TargetMatcher, lora: PlanOptions) -> tuple[list[Placement], list[Skip]]:
    """The placements at one module, and the skips of it and of its parts."""
    facts = visit.facts
    if facts is None:
        return [], [_skip_other(visit, matcher)]
    _refuse_fused_names(visit, facts, matcher)
    chosen = {part: matcher.targets_of(visit.names_of(part)) for part in visit.parts}
    excluded = {part: _exclusion(visit, part, matcher) for part in visit.parts}
    adapts_all_linears = matcher.adapts_all_linears and facts.kind is not ParallelKind.ROUTER
    wanted = [part for part in visit.parts if chosen[part] or (adapts_all_linears and not excluded[part])]
    placements = [_placement(visit, facts, part, chosen[part], lora) for part in wanted]
    skips = [part for part in visit.parts if part not in wanted]
    if not wanted and len(set(excluded.values())) == 1:
        return [], [_skip_linear(visit, None, len(skips), excluded[skips[0]])]
    return placements, [_skip_linear(visit, part, 1, excluded[part]) for part in skips]


def _refuse_fused_names(visit: _Visit, facts: LinearFacts, matcher: _TargetMatcher) -> None:
    """A target that hits a fused linear by its own name and none of its parts says nothing that can
    be done.
    """
    if not facts.parts:
        return
    names = tuple(name for part in visit.parts for name in visit.names_of(part))
    for target in matcher.lora.target_modules:
        if matches(target, visit.path) and not any(matches(target, name) for name in names):
            parts = ", ".join(FUSED[visit.path.rsplit(".", 1)[-1]][part] for part in facts.parts)
            raise TargetError(
                f"target_modules entry '{target}' hits the fused linear {visit.path} by its own name. "
                f"Name its canonical parts instead: {parts}."
            )


def _exclusion(visit: _Visit, part: str | None, matcher: _TargetMatcher) -> str | None:
    return matcher.exclusion_of((visit.path, *visit.names_of(part)))


def _skip_linear(visit: _Visit, part: str | None, num_linears: int, excluded_by: str | None) -> Skip:
    return Skip(
        module=visit.path,
        chunk=visit.chunk,
        global_layer=visit.global_layer,
        part=part,
        class_name=base_class_of(visit.module).__name__,
        reason=Reason.EXCLUDED if excluded_by else Reason.NOT_TARGETED,
        by=excluded_by,
        linears=0 if visit.facts and visit.facts.kind is ParallelKind.ROUTER else num_linears,
        params=visit.params if part is None else 0,
        copies=visit.copies,
    )


def _skip_other(visit: _Visit, matcher: _TargetMatcher) -> Skip:
    """A module that is no linear: fine unless a target names it and it holds parameters."""
    params = visit.params
    targets = matcher.targets_of((visit.path,)) if params or _is_embedding(visit) else []
    if targets:
        raise NotAdaptableError(
            f"target_modules entry '{targets[0]}' hits {visit.path}, a {type(visit.module).__name__}: LoRA adapts linear layers and the "
            "router, and this is neither. Remove the entry or narrow its pattern."
        )
    return Skip(
        module=visit.path,
        chunk=visit.chunk,
        global_layer=visit.global_layer,
        class_name=type(visit.module).__name__,
        reason=Reason.NOT_ADAPTABLE if params else Reason.NO_PARAMETERS,
        params=params,
    )


def _is_embedding(visit: _Visit) -> bool:
    """Containers named like an embedding are meant by users who write `embedding`, though their
    child holds the weight.
    """
    return visit.path.rsplit(".", 1)[-1] == "embedding"


def _placement(
    visit: _Visit, facts: LinearFacts, part: str | None, targets: Sequence[str], lora: PlanOptions
) -> Placement:
    dim = _lora_rank(visit, facts, lora)
    out_features = visit.parts[part]
    a_axes: tuple[str | None, ...]
    b_axes: tuple[str | None, ...]
    a_axes, b_axes = _mesh_axes(facts)
    a_global: tuple[int, ...] = (dim, facts.in_features)
    b_global: tuple[int, ...] = (out_features, dim)
    per_expert = bool(facts.num_local_experts) and not lora.share_expert_adapters
    if per_expert:
        a_global, b_global = (facts.num_experts, *a_global), (facts.num_experts, *b_global)
        a_axes, b_axes = ("ep", *a_axes), ("ep", *b_axes)
    a_shape = _local_shape(a_global, a_axes, visit.path, facts, "A")
    b_shape = _local_shape(b_global, b_axes, visit.path, facts, "B")
    return Placement(
        module=visit.path,
        chunk=visit.chunk,
        global_layer=visit.global_layer,
        part=part,
        base_class=base_class_of(visit.module).__name__,
        wrapper=_wrapper(visit, facts),
        adapter_class="GroupedExpertLinearAdapter"
        if per_expert
        else "LinearAdapter"
        if facts.kind is ParallelKind.PLAIN
        else "ParallelLinearAdapter",
        dim=dim,
        alpha=float(lora.alpha),
        a_shape=a_shape,
        b_shape=b_shape,
        a_global_shape=a_global,
        b_global_shape=b_global,
        a_axes=a_axes,
        b_axes=b_axes,
        target=next(iter(targets), None),
        by_number=_by_number(targets, lora),
        experts=_expert_facts(facts, per_expert=per_expert),
        copies=visit.copies,
        params=prod(a_shape) + prod(b_shape),
    )


def _by_number(targets: Sequence[str], lora: PlanOptions) -> bool:
    """Whether a sibling with another number may have been left out: one target without numbers
    takes them all.
    """
    if targets:
        return all(names_a_number(target) for target in targets)
    return any(names_a_number(entry) for entry in lora.exclude_modules)


def _wrapper(visit: _Visit, facts: LinearFacts) -> str:
    if facts.kind is ParallelKind.ROUTER:
        return "LoRATopKRouter"
    return WRAPPERS[visit.path.rsplit(".", 1)[-1]] if facts.fused else "LoRALinear"


def _mesh_axes(facts: LinearFacts) -> tuple[tuple[str | None, str | None], tuple[str | None, str | None]]:
    """Mesh axes of A `[rank, in]` and B `[out, rank]`.

    A row-parallel base receives its input split, so A is split along in; everywhere else A is split
    along the rank and its output gathered. B is always split along out: beside a column-parallel
    base that is what the base does, elsewhere its output is gathered.
    """
    if facts.axis is None:
        return (None, None), (None, None)
    a_axes = (None, facts.axis) if facts.kind is ParallelKind.ROW else (facts.axis, None)
    return a_axes, (facts.axis, None)


def _lora_rank(visit: _Visit, facts: LinearFacts, lora: PlanOptions) -> int:
    """LoRA rank at this linear: `dim`, or with `normalize_moe_lora` dim // topk inside routed
    experts.

    The quotient is rounded up to a multiple of etp where A is split along the rank.
    """
    if not (lora.normalize_moe_lora and facts.is_expert):
        return lora.dim
    rank, rest = divmod(lora.dim, facts.topk)
    if rest or not rank:
        raise GeometryError(
            f"normalize_moe_lora gives every routed expert rank dim // moe_router_topk, and dim = {lora.dim} is not divisible by "
            f"moe_router_topk = {facts.topk} ({visit.path}). Use dim = {_multiples(lora.dim, facts.topk)}."
        )
    step = facts.axis_size if facts.kind is not ParallelKind.ROW else 1
    return -(-rank // step) * step


def _local_shape(
    global_shape: tuple[int, ...], axes: tuple[str | None, ...], path: str, facts: LinearFacts, factor: str
) -> tuple[int, ...]:
    """One rank's shape of a factor whose dims are split over `axes`."""
    sizes = {facts.axis: facts.axis_size, "ep": facts.ep, None: 1}
    for dim, axis in zip(global_shape, axes, strict=True):
        if dim % sizes[axis]:
            is_rank = factor == "A" and axis == facts.axis and facts.kind is not ParallelKind.ROW
            raise GeometryError(
                f"{path}: {'the LoRA rank dim' if is_rank else f'a dim of {factor}'} = {dim} is not divisible by "
                f"{axis} = {sizes[axis]}, over which {factor} is split. "
                + (
                    f"Use dim = {_multiples(dim, sizes[axis])}, or another {axis}."
                    if is_rank
                    else f"Use another {axis}."
                )
            )
    return tuple(dim // sizes[axis] for dim, axis in zip(global_shape, axes, strict=True))


def _multiples(number: int, step: int) -> str:
    """The multiples of `step` around `number`, in words."""
    below = number // step * step
    return f"{below} or {below + step}" if below else f"{step}"


def _expert_facts(facts: LinearFacts, *, per_expert: bool) -> ExpertFacts | None:
    if not facts.is_expert:
        return None
    return ExpertFacts(
        num_experts=facts.num_experts,
        num_local_experts=facts.num_experts // facts.ep,
        per_expert=per_expert or not facts.num_local_experts,
        ep=facts.ep,
        etp=facts.axis_size,
    )
