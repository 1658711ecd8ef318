"""Plan what the installed Megatron-Bridge does: let it adapt a model, read the adapters that it
made, and describe them as a `Plan`.

Nothing is derived from its source. Sizes, ranks and splits are those of the tensors that it
registered; only what a tensor does not tell (layer numbers, the fates of all other modules) comes
from our own planner, which is asked to adapt exactly the modules that Megatron-Bridge adapted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from msgspec import structs

from clora import linears
from clora.errors import CloraError, described
from clora.fused import FUSED
from clora.patterns import canonical_names, is_bare
from clora.plan import Fate, Placement, Plan, Skip, merged_towers
from clora.planner import plan_model
from clora_inspect.bridge.canonical_lora import BridgeLoRA
from clora_inspect.bridge.errors import BridgeSurgeryError
from clora_inspect.job.adapter_names import factors

if TYPE_CHECKING:
    from torch import nn

    from clora.canonical_lora import CanonicalLoRA

_NOTHING = "no_module_has_this_name"
"""The target for a chunk in which nothing was adapted: an empty list would mean every linear."""


@dataclass(frozen=True, slots=True)
class _Adapter:
    """One adapter that Megatron-Bridge made."""

    part: str | None
    wrapper: str
    """Class that took the base module's place."""
    adapter_class: str
    alpha: float
    a: nn.Parameter
    b: nn.Parameter


def plan_of_surgery(chunks: Sequence[nn.Module], lora: CanonicalLoRA, bridge: BridgeLoRA) -> Plan:
    """Return the plan of what `bridge` does to one rank. The modules are put back afterwards.

    Raises:
        BridgeSurgeryError: Megatron-Bridge raises; the message has its words.
        BridgeFieldError: it does not have a field that `lora` sets.
    """
    models = [linears.unwrap(chunk) for chunk in chunks]
    before = [dict(model.named_modules(remove_duplicate=False)) for model in models]
    try:
        bridge.apply(models, replace(lora))
        made = [dict(_adapters_in(model)) for model in models]
    except CloraError:
        raise
    # Foreign code: it raises AssertionError, NotImplementedError, AttributeError and more.
    except Exception as error:
        raise BridgeSurgeryError(
            f"Megatron-Bridge {bridge.release} cannot adapt this model: {described(error)}"
        ) from error
    finally:
        for model, modules in zip(models, before, strict=True):
            _put_back(model, modules)
    plans = [
        _plan_of_chunk(model, number, adapters, lora)
        for number, (model, adapters) in enumerate(zip(models, made, strict=True))
    ]
    placements = tuple(placement for plan in plans for placement in plan.placements)
    return Plan(
        placements=placements,
        skipped=tuple(skip for plan in plans for skip in plan.skipped),
        matches=_matches(placements, lora),
        base_params=sum(plan.base_params for plan in plans),
        model_params=sum(plan.model_params for plan in plans),
        towers=merged_towers(plan.towers for plan in plans),
    )


def _put_back(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    """Put every module of `modules` (path -> module) back into its place, the outer ones first."""
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        if path and dict(model.get_submodule(parent).named_children()).get(name) is not module:
            setattr(model.get_submodule(parent), name, module)


def _adapters_in(model: nn.Module) -> Iterator[tuple[str, list[_Adapter]]]:
    """Yield the path of each adapted module with its adapters."""
    found: dict[str, list[_Adapter]] = {}
    for (path, part), pair in factors(model.named_parameters(remove_duplicate=False)).items():
        if pair.keys() == {"in", "out"}:
            wrapper: Any = model.get_submodule(path)
            adapter = wrapper.adapter[f"adapter_{part}"] if part else wrapper.adapter
            found.setdefault(path, []).append(_adapter(part, wrapper, adapter, pair["in"], pair["out"]))
    for path, module in model.named_modules():
        # Releases before 0.7 put the factors of a plain linear into the linear itself.
        if type(module).__name__ == "LinearAdapter" and path not in found and ".adapter" not in path:
            own: Any = module
            found[path] = [_adapter(None, own, own, own.linear_in.weight, own.linear_out.weight)]
    yield from found.items()


def _adapter(part: str | None, wrapper: Any, adapter: Any, a: nn.Parameter, b: nn.Parameter) -> _Adapter:
    return _Adapter(part, type(wrapper).__name__, type(adapter).__name__, float(adapter.alpha), a, b)


def _plan_of_chunk(model: nn.Module, number: int, made: dict[str, list[_Adapter]], lora: CanonicalLoRA) -> Plan:
    """Return the plan of one chunk whose adapters are `made`."""
    # All parts of a fused linear, so that there is a placement of ours to follow for each.
    targets = [name for path in made for name in canonical_names(path).values() or (path,)]
    plan = plan_model([model], replace(lora, target_modules=targets or [_NOTHING], exclude_modules=[]))
    ours: dict[str, dict[str | None, Placement]] = {}
    for placement in plan.placements:
        ours.setdefault(placement.module, {})[placement.part] = placement
    placements: list[Placement] = []
    skipped = list(plan.skipped)
    for path, adapters in made.items():
        like = ours[path]
        first = next(iter(like.values()))
        placements += [_as_made(like.get(adapter.part, first), adapter, lora) for adapter in adapters]
        skipped += _parts_left_out(like, adapters)
    return structs.replace(
        plan,
        placements=tuple(structs.replace(each, chunk=number) for each in placements),
        skipped=tuple(structs.replace(_with_fate(each, lora), chunk=number) for each in skipped),
    )


def _as_made(like: Placement, adapter: _Adapter, lora: CanonicalLoRA) -> Placement:
    """Return the placement of `adapter`; what its tensors do not tell is that of `like`."""
    axis = "etp" if like.experts else "tp"
    sizes = _axis_sizes(like)
    a_axes, b_axes = _axes(adapter.a, like.a_axes, axis), _axes(adapter.b, like.b_axes, axis)
    a_shape, b_shape = tuple(adapter.a.shape), tuple(adapter.b.shape)
    a_global = tuple(dim * sizes[each] for dim, each in zip(a_shape, a_axes, strict=True))
    b_global = tuple(dim * sizes[each] for dim, each in zip(b_shape, b_axes, strict=True))
    path = canonical_names(like.module)[adapter.part] if adapter.part else like.module
    experts = like.experts
    if experts is not None and experts.num_local_experts > 1:
        experts = structs.replace(experts, per_expert=experts.per_expert or len(a_shape) > 2)
    return structs.replace(
        like,
        part=adapter.part,
        wrapper=adapter.wrapper,
        adapter_class=adapter.adapter_class,
        dim=a_global[-2],
        alpha=adapter.alpha,
        a_shape=a_shape,
        b_shape=b_shape,
        a_global_shape=a_global,
        b_global_shape=b_global,
        a_axes=a_axes,
        b_axes=b_axes,
        target=next(_selecting(path, like.module, lora), None),
        experts=experts,
        params=prod(a_shape) + prod(b_shape),
    )


def _axis_sizes(like: Placement) -> dict[str | None, int]:
    """Return axis -> its size, from the local and the global shapes of a placement."""
    sizes: dict[str | None, int] = {None: 1}
    pairs = ((like.a_axes, like.a_global_shape, like.a_shape), (like.b_axes, like.b_global_shape, like.b_shape))
    for axes, whole, here in pairs:
        sizes |= {axis: all_ // one for axis, all_, one in zip(axes, whole, here, strict=True) if axis}
    if like.experts:
        sizes |= {"etp": like.experts.etp, "ep": like.experts.ep}
    return sizes


def _axes(factor: Any, planned: tuple[str | None, ...], axis: str) -> tuple[str | None, ...]:
    """Return the mesh axis that splits each dim of a factor, by the marks of megatron-core's
    linears; one without marks is split as planned.
    """
    marks = vars(factor)
    if "partition_dim" not in marks:
        return planned
    split = marks["partition_dim"] if marks.get("tensor_model_parallel") else None
    return tuple(axis if dim == split else None for dim in range(factor.dim()))


def _parts_left_out(ours: dict[str | None, Placement], adapters: Sequence[_Adapter]) -> Iterator[Skip]:
    """Yield the canonical parts of a linear to which Megatron-Bridge gave no adapter beside others.

    Args:
        ours: the placements with which we adapt all of the linear, by canonical part.
        adapters: what Megatron-Bridge made. It cuts some fc1 in halves that we adapt as a whole.
    """
    adapted = {adapter.part for adapter in adapters}
    if None in adapted:
        return
    module = next(iter(ours.values())).module
    parts: tuple[str | None, ...] = tuple(ours) if None not in ours else tuple(FUSED[module.rsplit(".", 1)[-1]])
    for part in parts:
        if part not in adapted:
            whole = ours[part] if part in ours else ours[None]
            experts = whole.experts.num_experts if whole.experts and whole.copies == 1 else whole.copies
            weights = whole.b_global_shape[-2] * whole.a_global_shape[-1] * experts
            yield Skip(
                module=whole.module,
                global_layer=whole.global_layer,
                part=part,
                class_name=whole.base_class,
                reason=Fate.UNMATCHED,
                linears=1,
                copies=whole.copies,
                weight_params=weights if part in ours else weights // len(parts),
            )


def _with_fate(skip: Skip, lora: CanonicalLoRA) -> Skip:
    """Return `skip` with the entry of `exclude_modules` that names it."""
    if skip.reason is not Fate.UNMATCHED or not lora.exclude_modules:
        return skip
    entry = next((each for each in lora.exclude_modules if _selects(each, skip.module)), None)
    return structs.replace(skip, reason=Fate.EXCLUDED, by=entry) if entry else skip


def _matches(placements: Sequence[Placement], lora: CanonicalLoRA) -> dict[str, int]:
    """Return target -> number of adapters that it asks for, as Megatron-Bridge reads it."""
    counts = Counter(
        target
        for placement in placements
        for target in _selecting(
            canonical_names(placement.module)[placement.part] if placement.part else placement.module,
            placement.module,
            lora,
        )
    )
    return {target: counts[target] for target in lora.target_modules}


def _selecting(path: str, module: str, lora: CanonicalLoRA) -> Iterator[str]:
    """Yield the targets that select a canonical linear at `path` in Megatron-Bridge. One that is
    adapted as a whole has the names of all its parts.
    """
    paths = (path,) if path != module else (path, *canonical_names(module).values())
    return (target for target in lora.target_modules if any(_selects(target, each) for each in paths))


def _selects(target: str, path: str) -> bool:
    """Return whether Megatron-Bridge reads `target` as one of `path`: it replaces `*` in a regular
    expression, and escapes nothing.
    """
    if is_bare(target):
        return path.rsplit(".", 1)[-1] == target
    try:
        return re.match("^" + target.replace("*", "(.*)") + "$", path) is not None
    except re.error:
        return False
