"""Prove that surgery did what the plan says and nothing else: the planned adapters are there and
trainable, and values, names and config of the base are untouched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.job.module_path import folded
from clora_inspect.verify.model.sites import Site, SiteKey, base_name, is_adapter, parameters_of, placement_key
from clora_inspect.verify.outcome import Proved, Refuted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from clora.plan import Plan
    from clora_inspect.verify.model.model_under_test import ModelUnderTest

Fingerprint = tuple[int, int, float]
"""Number of a tensor's elements, its offset in its memory, and a sum over all of that memory."""


def prove(model: ModelUnderTest) -> Proved:
    """Adapt a model, and compare it with the plan and with what it was before."""
    chunks = model.base()
    before = _fingerprints(parameters_of(chunks))
    config = _config_of(chunks)
    adapted = model.adapt(chunks, random_a=False)
    compare_with_plan(adapted.plan, adapted.sites)
    _check_separate(adapted.sites)
    _check_trainable(adapted.chunks)
    _check_untouched(before, adapted.chunks)
    changed = [name for name, value in _config_of(adapted.chunks).items() if config.get(name) != value]
    if changed:
        raise Refuted(
            f"Surgery changed the model's config, which all modules share: {', '.join(changed)}. Modules that read it "
            "later are built or run in another way."
        )
    trainable = sum(site.a.numel() + site.b.numel() for site in adapted.sites)
    return Proved(
        detail=f"{len(adapted.sites)} adapters as planned, {trainable:,} trainable parameters, base and config "
        "untouched",
        tensors=len(before),
        elements=sum(count for count, _, _ in before.values()),
        largest_error=0.0,
    )


def compare_with_plan(plan: Plan, sites: Iterable[Site]) -> None:
    """Check that every placement is in the model once, and no other adapter.

    Raises:
        Refuted: an adapter is missing, or is not in the plan.
    """
    # Counted, so that an adapter that is made twice shows as well.
    found = Counter(site.key for site in sites)
    wanted = Counter(placement_key(placement) for placement in plan.placements)
    missing, extra = sorted((wanted - found).elements()), sorted((found - wanted).elements())
    if not missing and not extra:
        return
    differences = []
    if missing:
        differences.append(f"{len(missing)} planned adapters are missing: {_folded(missing)}")
    if extra:
        differences.append(f"{len(extra)} adapters are nowhere in the plan: {_folded(extra)}")
    raise Refuted(
        f"Surgery did not do what the targets say: {'; '.join(differences)}. The run would train other modules than "
        f"it was told to.{_explanation(missing, extra)}",
        where=_at((missing or extra)[0]),
    )


def _explanation(missing: list[SiteKey], extra: list[SiteKey]) -> str:
    """Return a sentence if the difference itself shows its cause; else an empty string."""
    halves = {module for _, module, part in extra if part in ("gate", "up")}
    if halves & {module for _, module, part in missing if not part}:
        return (
            " linear_fc1 is cut in a gate and an up half where there is one adapter to make: an MLP without a gate has "
            "no halves, and experts' fc1 is adapted as a whole."
        )
    return ""


def _folded(keys: Iterable[SiteKey]) -> str:
    paths = [path for path, _ in folded(_at(key) for key in keys)]
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _at(key: SiteKey) -> str:
    _, module, part = key
    return f"{module}[{part}]" if part else module


def _check_separate(sites: Iterable[Site]) -> None:
    """Check that no two adapters share a factor: training one would train the other."""
    owners: dict[int, str] = {}
    for site in sites:
        for name, factor in (("A", site.a), ("B", site.b)):
            # Meta and empty tensors have no memory: all of them have the address 0.
            if factor.is_meta or factor.numel() == 0:
                continue
            owner = owners.setdefault(factor.untyped_storage().data_ptr(), f"{name} of {site.at}")
            if owner != f"{name} of {site.at}":
                raise Refuted(
                    f"{name} is the same tensor as {owner}: the two adapters cannot learn apart.", where=site.at
                )


def _check_trainable(chunks: list[nn.Module]) -> None:
    for name, parameter in parameters_of(chunks):
        if is_adapter(name) and not parameter.requires_grad:
            raise Refuted(f"{name} is frozen: this adapter would never be trained.", where=_module_of(name))
        if not is_adapter(name) and parameter.requires_grad:
            raise Refuted(
                f"{base_name(name)} of the base is trainable: the run would change the base model, and the checkpoint "
                "of the adapters alone would not hold what was trained.",
                where=_module_of(name),
            )


def _check_untouched(before: dict[str, Fingerprint], chunks: list[nn.Module]) -> None:
    after = _fingerprints(
        (base_name(name), parameter) for name, parameter in parameters_of(chunks) if not is_adapter(name)
    )
    for name, known in before.items():
        if name not in after:
            raise Refuted(
                f"{name} of the base has another name after surgery, or is gone: a base checkpoint would not load.",
                where=_module_of(name),
            )
        if after[name] != known:
            raise Refuted(f"{name} of the base has other values after surgery.", where=_module_of(name))


def _fingerprints(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, Fingerprint]:
    """Return a fingerprint of every tensor, by name."""
    # Tensors may share memory, as the experts of a wide layer do: it is summed once.
    sums: dict[int, float] = {}
    prints: dict[str, Fingerprint] = {}
    for name, tensor in named:
        if tensor.is_meta or not tensor.numel():
            prints[name] = tensor.numel(), 0, 0.0
            continue
        address = tensor.untyped_storage().data_ptr()
        if address not in sums:
            sums[address] = _sum_of_memory(tensor)
        prints[name] = tensor.numel(), int(tensor.storage_offset()), sums[address]
    return prints


def _sum_of_memory(tensor: torch.Tensor) -> float:
    """Return a weighted sum of all values in a tensor's memory, in fp64 and in a fixed order. A
    value that is changed or moved changes the sum.
    """
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    flat = tensor.detach().as_strided((size,), (1,), 0)
    total = 0.0
    # Summed in pieces: a copy of the whole memory in fp64 would not fit beside it.
    for start in range(0, size, 1 << 22):
        piece = flat[start : start + (1 << 22)].double()
        total += float((piece * torch.linspace(1.0, 2.0, len(piece), dtype=torch.float64, device=piece.device)).sum())
    return total


def _module_of(name: str) -> str:
    """Return the path of the module that holds a parameter."""
    return base_name(name.partition(".adapter.")[0] if is_adapter(name) else name.rpartition(".")[0])


def _config_of(chunks: list[nn.Module]) -> dict[str, Any]:
    """Return the simple fields of the first chunk's config; empty where it has none."""
    config: Any = getattr(chunks[0], "config", None)
    if not is_dataclass(config):
        return {}
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str | tuple | None)}
