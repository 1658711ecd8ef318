"""Plan the adapters of a model: walk its modules once, read their facts, change nothing.

For each module, `_decide` takes its facts (`linears.describe`), the names by which targets can
match it (its own, or those of its canonical parts), and the targets that match these names. The
result is one placement per adapter, and a skip with the reason for everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal, Protocol

from clora import linears
from clora.errors import GeometryError, NotAdaptableError, TargetError
from clora.fused import FUSED
from clora.linears import LinearFacts, ParallelKind
from clora.patterns import PatternSet, canonical_names, names_a_number
from clora.plan import ExpertFacts, Fate, Placement, Plan, Skip, is_prediction, merged_towers
from clora.towers import towers_of
from clora.wrappers import base_children, base_class_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.linears import Model

WRAPPERS = {"linear_qkv": "LoRALinearSplitQKV", "linear_fc1": "LoRALinearSplitFC1UpGate"}
"""Last name of a fused linear -> name of the wrapper with one adapter per canonical part."""

Axes = tuple[str | None, ...]
"""Mesh axis that splits each dim of a factor; None for a dim that is not split."""


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


def plan_model(model: Model, lora: PlanOptions) -> Plan:
    """Return the plan of `lora` on one rank.

    Args:
        model: one rank's model, or the list of its virtual pipeline chunks.
        lora: a `CanonicalLoRA` with valid fields.

    Raises:
        TargetError: a target matches a fused linear by its own name.
        NotAdaptableError: a target matches a module with parameters that is not a linear.
        GeometryError: the ranks of the layout do not divide a dim of a factor.
    """
    matcher = _TargetMatcher(lora)
    placements: list[Placement] = []
    skipped: list[Skip] = []
    base_params = model_params = 0
    chunks = linears.chunks_of(model)
    for number, chunk in enumerate(chunks):
        for visit in _walk(chunk, number):
            base_params += visit.params
            model_params += visit.model_params
            if not visit.path:
                continue
            new_placements, new_skips = _decide(visit, matcher, lora)
            placements += new_placements
            skipped += new_skips
    return Plan(
        placements=tuple(placements),
        skipped=tuple(skipped),
        matches=matcher.matches,
        base_params=base_params,
        model_params=model_params,
        towers=merged_towers(map(towers_of, chunks)),
    )


def plan_module(module: nn.Module, path: str, lora: PlanOptions) -> tuple[Placement, ...]:
    """Return the placements at the one module at `path`; empty when no target matches it.

    Raises:
        CloraError: as `plan_model`.
    """
    layer = linears.layer_number(module)
    visit = _visit(module, path, 0, None if layer is None else layer - 1, tp=1)
    placements, _ = _decide(visit, _TargetMatcher(lora), lora)
    return tuple(placements)


@dataclass(frozen=True, slots=True)
class _Visit:
    """One module on the walk."""

    module: nn.Module
    path: str
    chunk: int
    global_layer: int | None
    facts: LinearFacts | None
    """None for a module that is not a linear."""
    params: int
    """Elements of its own parameters on this rank."""
    model_params: int
    """Elements of its own parameters in the whole model, each counted once."""

    @property
    def copies(self) -> int:
        """Modules of the whole model at this path: a sequential expert is one on every ep rank."""
        return self.facts.ep if self.facts and self.facts.is_expert and not self.facts.num_local_experts else 1

    @property
    def parts(self) -> dict[str | None, int]:
        """Canonical part -> its output rows on all ranks.

        The only key is None for a linear that is adapted as a whole.
        """
        if self.facts is None:
            return {}
        if self.facts.fused is None:
            return {None: self.facts.out_features}
        return {part: self.facts.fused.out_features_by_part[part] for part in self.facts.parts}

    def names_of(self, part: str | None) -> tuple[str, ...]:
        """Return the paths by which targets can match `part`.

        A fused linear that is adapted as a whole has the names of all its parts.
        """
        if self.facts is None or not self.facts.parts:
            return (self.path,)
        canonical = canonical_names(self.path)
        return tuple(canonical[held] for held in ((part,) if part else self.facts.parts))


class _TargetMatcher:
    """Matches names with the targets, and counts the canonical linears that each has matched."""

    def __init__(self, lora: PlanOptions) -> None:
        self._targets = PatternSet(lora.target_modules)
        self._exclusions = PatternSet(lora.exclude_modules, "exclude_modules")
        # `PatternSet` mostly returns equal answers as the same object. Counting these and not each
        # target keeps ten thousand overlapping targets from costing ten thousand steps a module.
        self._counts: dict[int, list[Any]] = {}
        self._by_number: dict[int, bool] = {}

    @property
    def matches(self) -> dict[str, int]:
        """Target -> canonical linears that it has matched so far."""
        found = dict.fromkeys(self._targets.targets, 0)
        for targets, count in self._counts.values():
            for target in targets:
                found[target] += count
        return found

    @property
    def adapts_all_linears(self) -> bool:
        """True if no target is given, which means every linear that is not excluded."""
        return not self._targets.targets

    def targets_of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the targets that match one of the names of a canonical linear, and count them."""
        matching = self._targets.matching(*names)
        if matching:
            self._counts.setdefault(id(matching), [matching, 0])[1] += 1
        return matching

    def fused_name_of(self, path: str, names: tuple[str, ...]) -> str | None:
        """Return the first target that matches `path` and none of `names`."""
        own, of_names = self._targets.matching(path), self._targets.matching(*names)
        if not own or own is of_names:
            return None
        known = frozenset(of_names)
        return next((target for target in own if target not in known), None)

    def exclusion_of(self, names: tuple[str, ...]) -> str | None:
        """Return the first entry of `exclude_modules` that matches one of `names`."""
        return next(iter(self._exclusions.matching(*names)), None)

    def is_by_number(self, targets: tuple[str, ...]) -> bool:
        """Return whether another layer or expert may lack an adapter that `targets` chose."""
        # One target without a number matches in all layers and experts.
        chosen = targets or self._exclusions.targets
        if id(chosen) not in self._by_number:
            found = [names_a_number(target) for target in chosen]
            self._by_number[id(chosen)] = all(found) if targets else any(found)
        return self._by_number[id(chosen)]


def _walk(model: nn.Module, chunk: int) -> Iterator[_Visit]:
    """Visit every module of `model`, parents first, with the number of its layer."""
    stack: list[tuple[str, nn.Module, int | None]] = [("", model, None)]
    num_layers = linears.num_layers(model)
    tp, copies = linears.tensor_parallel_size(model), linears.copied_parameters(model)
    seen: set[int] = set()
    while stack:
        path, module, layer = stack.pop()
        # One object may be a child of several modules. It is visited at the first path.
        if id(module) in seen:
            continue
        seen.add(id(module))
        # Modules inside a layer have a `layer_number` as well; members of a list of layers decide.
        if (
            layer is None
            and path.rpartition(".")[0].endswith("layers")
            and (number := linears.layer_number(module)) is not None
        ):
            # Multi-token-prediction layers are numbered behind the decoder's, as in Hugging Face
            # checkpoints.
            layer = number - 1 + (num_layers if is_prediction(path) else 0)
        yield _visit(module, path, chunk, layer, tp, copies)
        children = [(f"{path}.{name}" if path else name, child, layer) for name, child in base_children(module)]
        stack.extend(reversed(children))


def _visit(
    module: nn.Module,
    path: str,
    chunk: int,
    global_layer: int | None,
    tp: int,
    copies: frozenset[int] = frozenset(),
) -> _Visit:
    facts = linears.describe(module, path) if path else None
    # Both counts from one pass over the parameters: a grouped linear has hundreds of them.
    params, model_params = linears.parameter_counts(module, facts, tp, copies)
    return _Visit(module, path, chunk, global_layer, facts, params, model_params)


def _decide(visit: _Visit, matcher: _TargetMatcher, lora: PlanOptions) -> tuple[list[Placement], list[Skip]]:
    """Return the placements at one module, and the skips of the module or of its parts."""
    facts = visit.facts
    if facts is None:
        return [], [_skip_other(visit, matcher)]
    _refuse_fused_names(visit, facts, matcher)
    targets = {part: matcher.targets_of(visit.names_of(part)) for part in visit.parts}
    excluded = {part: matcher.exclusion_of((visit.path, *visit.names_of(part))) for part in visit.parts}
    # Without targets all linears are adapted. A router is not one of them: it has to be named.
    all_linears = matcher.adapts_all_linears and facts.kind is not ParallelKind.ROUTER
    adapted = [part for part in visit.parts if targets[part] or (all_linears and not excluded[part])]
    unadapted = [part for part in visit.parts if part not in adapted]
    # A module without any adapter gets one skip, unless its parts have different reasons.
    if not adapted and len(set(excluded.values())) == 1:
        return [], [_skip_linear(visit, None, len(unadapted), excluded[unadapted[0]])]
    placements = [
        _placement(
            visit,
            facts,
            part,
            next(iter(targets[part]), None),
            lora,
            by_number=matcher.is_by_number(targets[part]),
        )
        for part in adapted
    ]
    return placements, [_skip_linear(visit, part, 1, excluded[part]) for part in unadapted]


def _refuse_fused_names(visit: _Visit, facts: LinearFacts, matcher: _TargetMatcher) -> None:
    """Raise when a target matches a fused linear by its own name and by none of its parts."""
    if not facts.parts:
        return
    names = tuple(name for part in visit.parts for name in visit.names_of(part))
    target = matcher.fused_name_of(visit.path, names)
    if target is not None:
        parts = ", ".join(FUSED[visit.path.rsplit(".", 1)[-1]][part] for part in facts.parts)
        raise TargetError(
            f"target_modules entry '{target}' matches the fused linear {visit.path} by its own name. "
            f"Name its canonical parts instead: {parts}."
        )


def _skip_linear(visit: _Visit, part: str | None, num_linears: int, excluded_by: str | None) -> Skip:
    return Skip(
        module=visit.path,
        chunk=visit.chunk,
        global_layer=visit.global_layer,
        part=part,
        class_name=base_class_of(visit.module).__name__,
        reason=Fate.EXCLUDED if excluded_by else Fate.UNMATCHED,
        by=excluded_by,
        linears=0 if visit.facts and visit.facts.kind is ParallelKind.ROUTER else num_linears,
        # The parameters of a partly adapted module are the base's, not those of one part.
        params=visit.params if part is None else 0,
        copies=visit.copies,
        weight_params=_weight_params(visit, part),
    )


def _weight_params(visit: _Visit, part: str | None) -> int:
    """Return the elements of the rows of `part`, or of all rows, of the weights of all experts."""
    if visit.facts is None:
        return 0
    rows = visit.parts[part] if part else sum(visit.parts.values())
    # A sequential expert is one module on each expert-parallel rank; a grouped linear holds all.
    experts = visit.facts.num_experts if visit.facts.num_local_experts else visit.copies
    return rows * visit.facts.in_features * experts


def _skip_other(visit: _Visit, matcher: _TargetMatcher) -> Skip:
    """Return the skip of a module that is not a linear, or raise when a target means it."""
    params = visit.params
    # A wildcard may match containers, which hold no parameter themselves. `embedding` is the one
    # container whose name a user writes when they mean the weight in its child.
    is_meant = params or visit.path.rsplit(".", 1)[-1] == "embedding"
    targets = matcher.targets_of((visit.path,)) if is_meant else ()
    if targets:
        raise NotAdaptableError(
            f"target_modules entry '{targets[0]}' matches {visit.path}, a {type(visit.module).__name__}: LoRA "
            "adapts linear layers and the router, and this is neither. Remove the entry or narrow its pattern."
        )
    return Skip(
        module=visit.path,
        chunk=visit.chunk,
        global_layer=visit.global_layer,
        class_name=type(visit.module).__name__,
        reason=Fate.NOT_ADAPTABLE if params else Fate.NO_PARAMETERS,
        params=params,
        own_parameters=_parameters_beside_children(visit.module),
    )


def _parameters_beside_children(module: nn.Module) -> tuple[str, ...]:
    if next(base_children(module), None) is None:
        return ()
    return tuple(name for name, _ in module.named_parameters(recurse=False))


def _placement(
    visit: _Visit, facts: LinearFacts, part: str | None, target: str | None, lora: PlanOptions, *, by_number: bool
) -> Placement:
    dim = _lora_rank(visit, facts, lora)
    a_axes, b_axes = _mesh_axes(facts)
    a_global: tuple[int, ...] = (dim, facts.in_features)
    b_global: tuple[int, ...] = (visit.parts[part], dim)
    per_expert = bool(facts.num_local_experts) and not lora.share_expert_adapters
    if per_expert:
        a_global, b_global = (facts.num_experts, *a_global), (facts.num_experts, *b_global)
        a_axes, b_axes = ("ep", *a_axes), ("ep", *b_axes)
    a_shape = _local_shape("A", a_global, a_axes, visit.path, facts)
    b_shape = _local_shape("B", b_global, b_axes, visit.path, facts)
    return Placement(
        module=visit.path,
        chunk=visit.chunk,
        global_layer=visit.global_layer,
        part=part,
        base_class=base_class_of(visit.module).__name__,
        wrapper=_wrapper(visit, facts),
        adapter_class=_adapter_class(facts, per_expert=per_expert),
        dim=dim,
        alpha=float(lora.alpha),
        a_shape=a_shape,
        b_shape=b_shape,
        a_global_shape=a_global,
        b_global_shape=b_global,
        a_axes=a_axes,
        b_axes=b_axes,
        target=target,
        by_number=by_number,
        experts=_expert_facts(facts, per_expert=per_expert),
        copies=visit.copies,
        params=prod(a_shape) + prod(b_shape),
    )


def _wrapper(visit: _Visit, facts: LinearFacts) -> str:
    if facts.kind is ParallelKind.ROUTER:
        return "LoRATopKRouter"
    return WRAPPERS[visit.path.rsplit(".", 1)[-1]] if facts.fused else "LoRALinear"


def _adapter_class(facts: LinearFacts, *, per_expert: bool) -> str:
    if per_expert:
        return "GroupedExpertLinearAdapter"
    return "LinearAdapter" if facts.kind is ParallelKind.PLAIN else "ParallelLinearAdapter"


def _mesh_axes(facts: LinearFacts) -> tuple[Axes, Axes]:
    """Return the mesh axes of A `[rank, in]` and B `[out, rank]`.

    A row-parallel base receives its input split, so A is split along in. Elsewhere A is split along
    the rank, which takes less memory than a copy on every rank. B is always split along out: a
    column-parallel base needs just these rows, and for any other base they are gathered.
    """
    if facts.axis is None:
        return (None, None), (None, None)
    a_axes = (None, facts.axis) if facts.kind is ParallelKind.ROW else (facts.axis, None)
    return a_axes, (facts.axis, None)


def _lora_rank(visit: _Visit, facts: LinearFacts, lora: PlanOptions) -> int:
    """Return the LoRA rank at one linear: `dim`, or dim // topk with `normalize_moe_lora`."""
    if not (lora.normalize_moe_lora and facts.is_expert):
        return lora.dim
    rank, rest = divmod(lora.dim, facts.topk)
    if rest or not rank:
        raise GeometryError(
            f"normalize_moe_lora gives every routed expert rank dim // moe_router_topk, and dim = {lora.dim} is not "
            f"divisible by moe_router_topk = {facts.topk} ({visit.path}). "
            f"Use dim = {_multiples(lora.dim, facts.topk)}."
        )
    # A is split along the rank, except for a row-parallel base: round up to what etp divides.
    step = facts.axis_size if facts.kind is not ParallelKind.ROW else 1
    return -(-rank // step) * step


def _local_shape(
    factor: Literal["A", "B"], global_shape: tuple[int, ...], axes: Axes, path: str, facts: LinearFacts
) -> tuple[int, ...]:
    """Return the shape of one rank's shard of a factor whose dims are split over `axes`."""
    sizes = {facts.axis: facts.axis_size, "ep": facts.ep, None: 1}
    for dim, axis in zip(global_shape, axes, strict=True):
        if dim % sizes[axis]:
            is_lora_rank = factor == "A" and axis == facts.axis and facts.kind is not ParallelKind.ROW
            name = "the LoRA rank dim" if is_lora_rank else f"a dim of {factor}"
            fix = f"dim = {_multiples(dim, sizes[axis])}, or another {axis}" if is_lora_rank else f"another {axis}"
            raise GeometryError(
                f"{path}: {name} = {dim} is not divisible by {axis} = {sizes[axis]}, over which {factor} is split. "
                f"Use {fix}."
            )
    return tuple(dim // sizes[axis] for dim, axis in zip(global_shape, axes, strict=True))


def _multiples(number: int, step: int) -> str:
    """Return the multiples of `step` just below and above `number`, in words."""
    below = number // step * step
    return f"{below} or {below + step}" if below else f"{step}"


def _expert_facts(facts: LinearFacts, *, per_expert: bool) -> ExpertFacts | None:
    if not facts.is_expert:
        return None
    return ExpertFacts(
        num_experts=facts.num_experts,
        num_local_experts=facts.num_experts // facts.ep,
        # A sequential expert is a module of its own, so its pair is its own.
        per_expert=per_expert or not facts.num_local_experts,
        ep=facts.ep,
        etp=facts.axis_size,
    )
