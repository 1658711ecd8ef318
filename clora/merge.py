"""Fold the adapters into the base weights in place, and take them out again.

A merged linear computes `(W + scale * B A) x` in one product, and its adapter is switched off. The
sum is made in fp32 or wider, one weight at a time, and rounded once to the dtype of the weight. It
has the base's name, so a checkpoint saved now holds the merged weight.

Every rank folds into its own shard. A factor that is split in another way than the weight is
gathered, as in the forward.
"""

from __future__ import annotations

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
    from clora.linears import Model
    from clora.wrappers import Adapted


def merge_adapters(model: Model, *, keep_base: bool = True) -> None:
    """Fold every adapter of `model` into its base weight. All ranks must call this.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
        keep_base: True keeps a copy of each base weight in the memory of the CPU, from which
            `unmerge_adapters` restores it bit for bit. False saves that memory;
            `unmerge_adapters` then subtracts, and each entry comes back within one rounding of
            W + delta plus one of W.

    Raises:
        MergeError: the model has no adapters, one is merged already, or a base weight is tied to
            the embedding or quantised. Nothing was changed on any rank.
    """
    modules = _adapted_in(model)
    # Copies of the embedding are marked by megatron-core or found in the model, see `linears`.
    copies = frozenset[int]().union(*map(linears.copied_parameters, linears.chunks_of(model)))
    raise_together(_merge_error(modules, copies))
    if not any(gather_objects(bool(modules))):
        raise MergeError("There is nothing to merge: the model has no adapters. Apply CanonicalLoRA to it first.")
    with torch.no_grad():
        for _, module in modules:
            # `copy`, because `to` returns a weight that is on the CPU already as it is.
            kept = {name: weight.to("cpu", copy=True) if keep_base else None for name, weight in _weights(module)}
            _fold(module, 1.0)
            linears.quantise_weights_anew(module)
            # Set only now: an adapted module with `base_weights` counts as merged.
            module.base_weights = kept
            module.enabled_before_merge = module.adapter_enabled
            module.adapter_enabled = False


def unmerge_adapters(model: Model) -> None:
    """Take the adapters out of the base weights again. All ranks must call this.

    Afterwards they are switched on or off as they were before merging. A model that is not merged
    is left as it is.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
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
            linears.quantise_weights_anew(module)
            module.adapter_enabled = module.enabled_before_merge
            del module.base_weights, module.enabled_before_merge


def _adapted_in(model: Model) -> list[tuple[str, Adapted]]:
    return [found for chunk in linears.chunks_of(model) for found in adapted_modules(chunk)]


def _merge_error(modules: list[tuple[str, Adapted]], copies: frozenset[int]) -> MergeError | None:
    """Return the error of the first module that cannot be merged, or None.

    Args:
        modules: path and module of each adapted linear on this rank.
        copies: ids of parameters that are copies of an embedding on another stage.
    """
    for path, module in modules:
        if module.is_merged:
            return MergeError(
                f"{path} is merged already: its adapter would count twice. "
                "Undo it first: clora.unmerge_adapters(model)."
            )
        weights = dict(_weights(module))
        # A tied output layer borrows the embedding's weight, or has a copy of it on the last stage.
        # With multi-token prediction it borrows it and has one of its own, which nobody reads.
        if not weights or any(linears.is_tied_copy(weight) or id(weight) in copies for weight in weights.values()):
            return MergeError(
                f"{path} has the embedding's weight (share_embeddings_and_output_weights): folding its adapter in "
                "would change the embedding too. Leave output_layer out of target_modules, untie the weights, or "
                "export the adapter unmerged."
            )
        for name, weight in weights.items():
            if not _is_summable(weight):
                return MergeError(
                    f"{path}.{name} is quantised ({type(weight.data).__name__}, {weight.dtype}): a sum does not fit "
                    "into it. Merge into the weights in their original precision."
                )
    return None


def _is_summable(weight: nn.Parameter) -> bool:
    # 8-bit floats are torch's own, and Transformer Engine's quantised weights are tensor subclasses
    # that report the dtype that they would have unquantised.
    return weight.dtype.is_floating_point and weight.dtype.itemsize > 1 and type(weight.data) is torch.Tensor


def _weights(module: Adapted) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and tensor of the base weight, or of each expert's weight in a grouped linear."""
    for name, parameter in module.named_parameters(recurse=False):
        # Transformer Engine numbers the weights of a grouped linear: weight0, weight1, ...
        if name.removeprefix("weight").isdigit() or name == "weight":
            yield name, parameter


def _fold(module: Adapted, sign: float) -> None:
    """Add `sign` times the delta to every weight of `module`."""
    weights = [weight for _, weight in _weights(module)]
    wide = torch.promote_types(weights[0].dtype, torch.float32)
    factors = {part: _factors(adapter, wide) for part, adapter in module.adapters.items()}
    for expert, weight in enumerate(weights):
        delta = sign * _delta(module, factors, expert, weight.shape)
        weight.copy_(weight.to(wide) + delta)


def _factors(adapter: Adapter, wide: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A, scaled, and B as the forward multiplies them on this rank."""
    a = adapter.communication.gather_a(adapter.linear_in.weight)
    b = adapter.communication.gather_b(adapter.linear_out.weight)
    return a.to(wide) * adapter.scale, b.to(wide)


def _delta(
    module: Adapted, factors: dict[str | None, tuple[torch.Tensor, torch.Tensor]], expert: int, shape: torch.Size
) -> torch.Tensor:
    """Return the delta of one weight `[out, in]` of this rank.

    Args:
        module: the adapted module.
        factors: canonical part -> A and B; the key None for a linear adapted as a whole.
        expert: index of the weight in a grouped linear, else 0.
        shape: shape of the weight.
    """
    if None in factors:
        a, b = factors[None]
        if isinstance(module.adapter, GroupedExpertLinearAdapter):
            a, b = a[expert], b[expert]
        return b @ a
    # The rows of each part go where the fused weight has them, in every block.
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
