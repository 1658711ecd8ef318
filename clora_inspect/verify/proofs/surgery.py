"""Surgery did what the plan says and nothing else: the planned adapters, trainable, on a base whose
values, names and config are untouched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.job.module_path import folded
from clora_inspect.verify.model.sites import Site, base_name, is_adapter, parameters_of, placement_key
from clora_inspect.verify.outcome import Proved, Refuted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from clora.plan import Plan
    from clora_inspect.verify.model.model_under_test import ModelUnderTest

Fingerprint = tuple[int, int, float]
"""Of a tensor: its elements, where they begin in memory, and a sum of all that is there."""


def prove(model: ModelUnderTest) -> Proved:
    """Adapt a model and compare it with what it was and with the plan."""
    chunks = model.base()
    before = _sums_of(parameters_of(chunks))
    config = _config_of(chunks)
    adapted = model.adapt(chunks, random_a=False)
    compare_with_plan(adapted.plan, adapted.sites)
    compare_shapes(adapted.sites)
    _separate(adapted.sites)
    _trainable(adapted.chunks)
    _untouched(before, adapted.chunks)
    changed = [name for name, value in _config_of(adapted.chunks).items() if config.get(name) != value]
    if changed:
        raise Refuted(
            f"Surgery changed the model's config, which all modules share: {', '.join(changed)}. Modules that "
            "read it later are built or run otherwise."
        )
    trainable = sum(site.a.numel() + site.b.numel() for site in adapted.sites)
    return Proved(
        detail=f"{len(adapted.sites)} adapters as planned, {trainable:,} trainable parameters, base and config untouched",
        tensors=len(before),
        elements=sum(count for count, _, _ in before.values()),
        largest_error=0.0,
    )


def compare_with_plan(plan: Plan, sites: Iterable[Site]) -> None:
    """Every placement is in the model once, and nothing else is.

    Raises:
        Refuted: otherwise, with the first module that differs.
    """
    found = Counter(site.key for site in sites)
    wanted = Counter(placement_key(placement) for placement in plan.placements)
    missing, extra = sorted((wanted - found).elements()), sorted((found - wanted).elements())
    if not missing and not extra:
        return
    said = []
    if missing:
        said.append(f"{len(missing)} planned adapters are missing: {_folded(missing)}")
    if extra:
        said.append(f"{len(extra)} adapters are nowhere in the plan: {_folded(extra)}")
    raise Refuted(
        f"Surgery did not do what the targets say: {'; '.join(said)}. The run would train other modules than "
        f"it was told to.{_explained(missing, extra)}",
        where=_at((missing or extra)[0]),
    )


def _explained(missing: list[tuple[int, str, str]], extra: list[tuple[int, str, str]]) -> str:
    """Why, where two patterns of difference say so by themselves."""
    halves = {module for _, module, part in extra if part in ("gate", "up")}
    if halves & {module for _, module, part in missing if not part}:
        return (
            " linear_fc1 is cut in a gate and an up half where there is one adapter to make: an MLP without a gate has no halves, and "
            "experts' fc1 is adapted as a whole."
        )
    return ""


def _folded(keys: Iterable[tuple[int, str, str]]) -> str:
    rows = [path for path, _ in folded(_at(key) for key in keys)]
    return ", ".join(rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")


def _at(key: tuple[int, str, str]) -> str:
    _, module, part = key
    return f"{module}[{part}]" if part else module


def compare_shapes(sites: Iterable[Site]) -> None:
    """Every factor is as large as planned.

    Raises:
        Refuted: otherwise.
    """
    for site in sites:
        placement = site.placement
        if placement is None:
            continue
        for factor, is_, planned in (("A", site.a, placement.a_shape), ("B", site.b, placement.b_shape)):
            if tuple(is_.shape) != tuple(planned):
                raise Refuted(
                    f"{factor} is {list(is_.shape)} on this rank, and beside this linear it must be {list(planned)}"
                    f"{_too_narrow(factor, is_, planned)}.",
                    where=site.at,
                    stops=True,
                )
            if not is_.dtype.is_floating_point:
                raise Refuted(f"{factor} is {is_.dtype}, which cannot be trained.", where=site.at)


def _too_narrow(factor: str, is_: torch.Tensor, planned: tuple[int, ...]) -> str:
    if factor == "B" and len(planned) == is_.dim() and is_.shape[-2] * 2 == planned[-2]:
        return ": half of its rows have no adapter, as when the gate of an attention with an output gate is forgotten"
    return ""


def _separate(sites: Iterable[Site]) -> None:
    """No two adapters have a factor in common: training one would train the other."""
    owners: dict[int, str] = {}
    for site in sites:
        for factor, parameter in (("A", site.a), ("B", site.b)):
            if parameter.is_meta or parameter.numel() == 0:
                continue
            owner = owners.setdefault(parameter.untyped_storage().data_ptr(), f"{factor} of {site.at}")
            if owner != f"{factor} of {site.at}":
                raise Refuted(
                    f"{factor} is the same tensor as {owner}: the two adapters cannot learn apart.", where=site.at
                )


def _trainable(chunks: list[nn.Module]) -> None:
    for name, parameter in parameters_of(chunks):
        if is_adapter(name) and not parameter.requires_grad:
            raise Refuted(f"{name} is frozen: this adapter would never be trained.", where=_module(name))
        if not is_adapter(name) and parameter.requires_grad:
            raise Refuted(
                f"{base_name(name)} of the base is trainable: the run would change the base model, and the checkpoint of the adapters alone "
                "would not hold what was trained.",
                where=_module(name),
            )


def _untouched(before: dict[str, Fingerprint], chunks: list[nn.Module]) -> None:
    after = _sums_of((base_name(name), parameter) for name, parameter in parameters_of(chunks) if not is_adapter(name))
    for name, known in before.items():
        if name not in after:
            raise Refuted(
                f"{name} of the base has another name after surgery, or is gone: a base checkpoint would not load.",
                where=_module(name),
            )
        if after[name] != known:
            raise Refuted(f"{name} of the base has other values after surgery.", where=_module(name))


def _sums_of(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Fingerprint]:
    """A fingerprint of every tensor. Of memory that several share, as the experts of a wide layer
    do, the sum is made once.
    """
    sums: dict[int, float] = {}
    made: dict[str, Fingerprint] = {}
    for name, tensor in named:
        if tensor.is_meta or not tensor.numel():
            made[name] = tensor.numel(), 0, 0.0
            continue
        at = tensor.untyped_storage().data_ptr()
        if at not in sums:
            sums[at] = _sum_of(tensor)
        made[name] = tensor.numel(), int(tensor.storage_offset()), sums[at]
    return made


def _sum_of(tensor: torch.Tensor) -> float:
    """Of all values in a tensor's memory, in fp64 in a fixed order, in which a changed or moved
    value shows.
    """
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    flat = tensor.detach().as_strided((size,), (1,), 0)
    total = 0.0
    for start in range(0, size, 1 << 22):
        piece = flat[start : start + (1 << 22)].double()
        total += float((piece * torch.linspace(1.0, 2.0, len(piece), dtype=torch.float64, device=piece.device)).sum())
    return total


def _module(name: str) -> str:
    """The path of the module that holds a parameter."""
    return base_name(name.partition(".adapter.")[0] if is_adapter(name) else name.rpartition(".")[0])


def _config_of(chunks: list[nn.Module]) -> dict[str, Any]:
    """Simple fields of the first chunk's config."""
    config: Any = getattr(chunks[0], "config", None)
    if not is_dataclass(config):
        return {}
    return {
        field.name: value
        for field in fields(config)
        if isinstance(value := getattr(config, field.name), bool | int | float | str | tuple | type(None))
    }
