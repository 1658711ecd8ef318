"""Find what surgery promises and a live rank does not have: frozen weights that are trainable,
adapters that are switched off or no longer what surgery made, and layers in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from clora import linears
from clora.recompute import loses_input_gradients
from clora.surgery import kept_trainable
from clora.wrappers import Adapted, adapted_modules, plain_path
from clora_inspect.job.module_path import folded, global_path
from clora_inspect.launch.difference import Difference, Topic

if TYPE_CHECKING:
    from torch import nn

    from clora.adapters import Adapter, Factor
    from clora.plan import Placement, Plan


def not_in_effect(chunks: Sequence[nn.Module], plan: Plan) -> Iterator[Difference]:
    """Yield what surgery promises and this rank does not have.

    Args:
        chunks: its model, adapted.
        plan: its base modules.
    """
    layers = layer_of_module(plan)
    asked = _AskedDtypes()
    owners: dict[int, tuple[nn.Module, str]] = {}
    for number, chunk in enumerate(chunks):
        found: dict[str, list[str]] = {}
        kept = kept_trainable(chunk)
        for path, name, parameter in base_parameters(chunk):
            if parameter.requires_grad and (f"{path}.{name}" if path else name) not in kept:
                whole = global_path(path, layers.get((number, path)))
                found.setdefault("a weight of the base is trainable, and canonical LoRA freezes it", []).append(
                    f"{whole}.{name}" if whole else name
                )
        for path, module in adapted_modules(chunk):
            whole = global_path(path, layers.get((number, path)))
            faults = (*_faults_of(module, whole), *asked.faults_of(module, whole), *_ties(module, whole, owners))
            for text, at in faults:
                found.setdefault(text, []).append(at)
        for path in loses_input_gradients(chunk, [path for path, _ in adapted_modules(chunk)]):
            text = "activations are recomputed and its input needs no gradient, so no adapter in it would train"
            found.setdefault(text, []).append(path)
        for text, path in _layers_out_of_order(chunk):
            found.setdefault(text, []).append(path)
        for text, paths in found.items():
            for where, _ in folded(paths):
                yield Difference(topic=Topic.IN_EFFECT, text=text, where=where)


def layer_of_module(plan: Plan) -> dict[tuple[int, str], int | None]:
    """Return chunk and path of each module -> the global number of its layer."""
    return {(skip.chunk, skip.module): skip.global_layer for skip in plan.skipped}


def base_parameters(chunk: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield path of the module, name and parameter of everything but the adapters."""
    adapters = {id(part) for _, module in adapted_modules(chunk) for part in module.adapter.modules()}
    for path, module in chunk.named_modules():
        if id(module) not in adapters:
            for name, parameter in module.named_parameters(recurse=False):
                yield plain_path(path), name, parameter


def dtype_name(tensor: torch.Tensor) -> str:
    """Return the dtype without the name of its package."""
    return _name(tensor.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _faults_of(module: Adapted, path: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the adapters of one module, and where."""
    if module.is_merged:
        yield "the adapters are merged into the weight, and train nothing there", path
    elif not module.adapter_enabled:
        yield "the adapters are switched off", path
    base = _weight_of(module)
    planned = {placement.part: placement for placement in module.placements}
    for part, adapter in module.adapters.items():
        at = _at(path, part)
        if adapter.dim != adapter.linear_in.global_shape[-2]:
            yield f"its scale is alpha / {adapter.dim}, and its rank is {adapter.linear_in.global_shape[-2]}", at
        for name, factor, shape in _factors(adapter, planned.get(part)):
            if not factor.weight.requires_grad:
                yield f"{name} of the adapter is frozen", at
            if shape is not None and tuple(factor.weight.shape) != shape:
                yield f"{name} of the adapter is {_shape(factor.weight.shape)}, and {_shape(shape)} was made", at
            if base is not None and factor.weight.dtype != base.dtype:
                yield f"{name} of the adapter is {dtype_name(factor.weight)}, and its base is {dtype_name(base)}", at
            if base is not None and factor.weight.device.type != base.device.type:
                yield f"{name} of the adapter is on {factor.weight.device}, and its base is on {base.device}", at


def _ties(module: Adapted, path: str, owners: dict[int, tuple[nn.Module, str]]) -> Iterator[tuple[str, str]]:
    """Yield the weights of an adapted module that another one has as well, and where.

    Args:
        module: an adapted module.
        path: its path in the whole model.
        owners: identity of a weight -> the module that had it first, and where. This adds to it.
    """
    held: list[tuple[str, nn.Module, nn.Parameter | None, str]] = [("the weight", module, _weight_of(module), path)]
    for part, adapter in module.adapters.items():
        factors = _factors(adapter, None)
        held += [(f"{name} of the adapter", factor, factor.weight, _at(path, part)) for name, factor, _ in factors]
    for what, holder, weight, at in held:
        if weight is None:
            continue
        owner, where = owners.setdefault(id(weight), (holder, at))
        # Experts that share a pair have one factor, not two with one weight.
        if owner is not holder:
            yield f"{what} is also that of {where}", at


class _AskedDtypes:
    """Compares the dtype of adapted weights with what the config of their model asks for, or with
    the first one where the config leaves it at its default.
    """

    def __init__(self) -> None:
        self._first: dict[int, torch.dtype] = {}

    def faults_of(self, module: Adapted, path: str) -> Iterator[tuple[str, str]]:
        """Yield the dtype of a module's weight if it is another one, and where."""
        weight, config = _weight_of(module), getattr(module, "config", None)
        if weight is None or config is None:
            return
        asked = self._first.setdefault(id(config), _asked_dtype(config) or weight.dtype)
        if weight.dtype != asked:
            yield f"the weight is {dtype_name(weight)}, and {_name(asked)} was asked for", path


def _asked_dtype(config: Any) -> torch.dtype | None:
    """Return the dtype that the config of a model asks for; None if it leaves it at its default."""
    if getattr(config, "bf16", False):
        return torch.bfloat16
    if getattr(config, "fp16", False):
        return torch.float16
    asked = getattr(config, "params_dtype", None)
    return None if asked == torch.float32 else asked


def _layers_out_of_order(chunk: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the stacks whose layers do not run in the order of their numbers, and where."""
    for path, block in chunk.named_modules():
        for name, layers in block.named_children() if linears.is_block(block) else ():
            if not linears.is_list(layers):
                continue
            # Not its `children()`, which leave out a layer that is there twice.
            numbers = [linears.layer_number(layer) for layer in cast("nn.ModuleList", layers)]
            known = [number for number in numbers if number is not None]
            if len(known) == len(numbers) and known != sorted(set(known)):
                order = ", ".join(str(number - 1) for number in known)
                yield f"the layers run in the order {order}", plain_path(f"{path}.{name}" if path else name)


def _factors(adapter: Adapter, planned: Placement | None) -> Iterator[tuple[str, Factor, tuple[int, ...] | None]]:
    """Yield name, factor and planned shape of A and of B."""
    yield "A", adapter.linear_in, None if planned is None else tuple(planned.a_shape)
    yield "B", adapter.linear_out, None if planned is None else tuple(planned.b_shape)


def _weight_of(module: nn.Module) -> nn.Parameter | None:
    """Return the weight of the base that is a floating-point number, and not that of its norm."""
    found = [(name, each) for name, each in module.named_parameters(recurse=False) if each.dtype.is_floating_point]
    return next((each for name, each in found if name.startswith("weight")), found[0][1] if found else None)


def _at(path: str, part: str | None) -> str:
    return f"{path}[{part}]" if part else path


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
