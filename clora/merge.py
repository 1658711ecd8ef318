"""Fold the adapters into the base weights, in place, and take them out again.

A merged linear computes `(W + scale B A) x` in one product. Its weight is what a checkpoint of the
base then holds, under the base's own name, and its adapter does not count until it is unmerged. The
sum is made in fp32 or wider, one weight at a time, and rounded once to the weight's dtype.

Every rank folds into its own shard: the factor that is split the other way than the weight is
gathered, exactly as in the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from clora import linears
from clora.adapters import GroupedExpertLinearAdapter
from clora.all_ranks import gather_objects, raise_together
from clora.errors import MergeError
from clora.wrappers import adapted_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.adapters import Adapter
    from clora.wrappers import Adapted

    Model = nn.Module | Sequence[nn.Module]


def merge_adapters(model: Model, *, keep_base: bool = True) -> None:
    """Fold every adapter of `model` into its base weight. Called on every rank.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
        keep_base: keep a copy of each base weight in the CPU's memory, from which
            `unmerge_adapters` restores it bit for bit. Without one, `unmerge_adapters` subtracts:
            every entry is then within one rounding of W + delta and one of W of what it was.

    Raises:
        MergeError: there is no adapter, one is merged already, or a base has no weight of its own
            to fold into; nothing was changed, on any rank.
    """
    modules = _adapted_in(model)
    raise_together(_merge_error(modules))
    if not any(gather_objects(bool(modules))):
        raise MergeError("There is nothing to merge: the model has no adapters. Apply CanonicalLoRA to it first.")
    with torch.no_grad():
        for _, module in modules:
            kept = {name: weight.to("cpu", copy=True) if keep_base else None for name, weight in _weights(module)}
            _fold(module, 1.0)
            module.base_weights = kept
            module.enabled_before_merge = module.adapter_enabled
            module.adapter_enabled = False


def unmerge_adapters(model: Model) -> None:
    """Take the adapters out of the base weights again; a model that is not merged is left alone.
    Called on every rank.
    """
    with torch.no_grad():
        for _, module in _adapted_in(model):
            if not module.is_merged:
                continue
            kept = {name: weight for name, weight in module.base_weights.items() if weight is not None}
            if not kept:
                _fold(module, -1.0)
            for name, weight in _weights(module):
                if name in kept:
                    weight.copy_(kept[name])
            module.adapter_enabled = module.enabled_before_merge
            del module.base_weights, module.enabled_before_merge


def _adapted_in(model: Model) -> list[tuple[str, Adapted]]:
    chunks = model if isinstance(model, Sequence) else [model]
    return [found for chunk in chunks for found in adapted_modules(linears.unwrap(chunk))]


def _merge_error(modules: list[tuple[str, Adapted]]) -> MergeError | None:
    """Why these cannot be merged, found before any of them is."""
    for path, module in modules:
        if module.is_merged:
            return MergeError(
                f"{path} is merged already: its adapter would count twice. Undo it first: clora.unmerge_adapters(model)."
            )
        weights = dict(_weights(module))
        if not weights or any(getattr(weight, "shared_embedding", False) for weight in weights.values()):
            return MergeError(
                f"{path} has the embedding's weight (share_embeddings_and_output_weights): folding its adapter in would change the "
                "embedding too. Leave output_layer out of target_modules, untie the weights, or export the adapter unmerged."
            )
        for name, weight in weights.items():
            if not _is_summable(weight):
                return MergeError(
                    f"{path}.{name} is quantised ({type(weight.data).__name__}, {weight.dtype}): a sum does not fit into it. "
                    "Merge into the weights in their original precision."
                )
    return None


def _is_summable(weight: nn.Parameter) -> bool:
    return weight.dtype.is_floating_point and weight.dtype.itemsize > 1 and type(weight.data) is torch.Tensor


def _weights(module: Adapted) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and tensor of the base's weight, or weights by expert in the order of the experts."""
    for name, parameter in linears.own_parameters(module):
        if name.removeprefix("weight").isdigit() or name == "weight":
            yield name, parameter


def _fold(module: Adapted, sign: float) -> None:
    weights = [weight for _, weight in _weights(module)]
    wide = torch.promote_types(weights[0].dtype, torch.float32)
    factors = {part: _factors(adapter, wide) for part, adapter in module.adapters.items()}
    for expert, weight in enumerate(weights):
        delta = sign * _delta(module, factors, expert, weight.shape)
        weight.copy_(weight.to(wide) + delta)


def _factors(adapter: Adapter, wide: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled A and B as the forward multiplies them on this rank."""
    a = adapter.communication.gather_a(adapter.linear_in.weight)
    b = adapter.communication.gather_b(adapter.linear_out.weight)
    return a.to(wide) * adapter.scale, b.to(wide)


def _delta(
    module: Adapted, factors: dict[str | None, tuple[torch.Tensor, torch.Tensor]], expert: int, shape: torch.Size
) -> torch.Tensor:
    """What is added to one weight `[out, in]` of this rank."""
    if None in factors:
        a, b = factors[None]
        if isinstance(module.adapter, GroupedExpertLinearAdapter):
            a, b = a[expert], b[expert]
        return b @ a
    rows: Any = module.rows
    first = next(iter(factors.values()))[0]
    packed = first.new_zeros(rows.num_blocks, shape[0] // rows.num_blocks, shape[1])
    start = 0
    for stretch in rows.stretches:
        if stretch.part in factors:
            a, b = factors[stretch.part]
            own = b if rows.whole_blocks else b[stretch.start : stretch.start + stretch.rows]
            packed[:, start : start + stretch.rows] = (own @ a).view(rows.num_blocks, stretch.rows, shape[1])
        start += stretch.rows
    return packed.view(shape)
