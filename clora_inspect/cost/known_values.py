"""Let a few tensors on the meta device have values, and compute with these beside the shapes.

How many tokens an expert gets decides shapes, so megatron-core reads it out of tensors. On the meta
device nothing has values. Inside `known_values` a meta tensor that was given its values by `give`
keeps them, and so does each tensor of whole numbers or truth values that is computed from such
tensors alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_VALUES = "_clora_values"
"""Attribute of a meta tensor: its values, a tensor on the CPU."""

_aten = torch.ops.aten


def give(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Give a meta tensor its values, which lie on the CPU and have its shape."""
    setattr(tensor, _VALUES, values)


def values_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the values of a tensor: of one on the meta device those that it was given, if any."""
    if tensor.device.type != "meta":
        return tensor
    values: torch.Tensor | None = getattr(tensor, _VALUES, None)
    return values


class KnownValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Propagate values through operations; answer those whose result's shape depends on values."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func` on shapes, and on values where all of them are known."""
        kwargs = kwargs or {}
        by_value = _BY_VALUE.get(func)
        if by_value is not None:
            answer = by_value(func, args, kwargs)
            if answer is not None:
                return answer
        answer = func(*args, **kwargs)
        if _gathers(func):
            _tile(args)
        elif _is_known(answer):
            _propagate(func, args, kwargs, answer)
        return answer


def _is_known(answer: object) -> bool:
    """Return whether an answer is of a kind that may have values: meta, and no floats."""
    first = answer[0] if isinstance(answer, (tuple, list)) and answer else answer
    return isinstance(first, torch.Tensor) and first.device.type == "meta" and not first.is_floating_point()


def _propagate(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], answer: Any) -> None:
    flat, _ = tree_flatten((args, kwargs))
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    if not any(each.device.type == "meta" and hasattr(each, _VALUES) for each in tensors):
        return
    if any(values_of(each) is None for each in tensors):
        # An operation in place has overwritten known values with unknown ones.
        for each in answer if isinstance(answer, (tuple, list)) else (answer,):
            if hasattr(each, _VALUES):
                delattr(each, _VALUES)
        return
    on_cpu_args, on_cpu_kwargs = _on_cpu(args, kwargs)
    values = func(*on_cpu_args, **on_cpu_kwargs)
    if isinstance(answer, (tuple, list)):
        for each, its_values in zip(answer, values, strict=True):
            give(each, its_values)
    else:
        give(answer, values)


def _on_cpu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    values: Any = tree_map_only(torch.Tensor, values_of, (tuple(args), dict(kwargs)))
    on_cpu_args, on_cpu_kwargs = values
    if "device" in on_cpu_kwargs:
        on_cpu_kwargs["device"] = torch.device("cpu")
    return on_cpu_args, on_cpu_kwargs


def _to_cpu(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Answer a copy to the CPU with the values, which are needed there."""
    device = kwargs.get("device")
    values = values_of(args[0])
    if device is None or torch.device(device).type != "cpu" or values is None:
        return None
    return func(values, *args[1:], **kwargs)


def _item(_func: Any, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Any:
    values = values_of(args[0])
    return None if values is None else values.item()


def _masked_select(_func: Any, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Any:
    mask = values_of(args[1])
    if mask is None or args[0].device.type != "meta":
        return None
    return args[0].new_empty(int(mask.sum()) * args[0].numel() // max(mask.numel(), 1))


def _nonzero(_func: Any, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Any:
    values = values_of(args[0])
    if values is None or args[0].device.type != "meta":
        return None
    return torch.empty(int(values.count_nonzero()), values.dim(), dtype=torch.long, device="meta")


_BY_VALUE: dict[Any, Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]] = {
    _aten._to_copy.default: _to_cpu,  # noqa: SLF001 - torch's name of the operation
    _aten._local_scalar_dense.default: _item,  # noqa: SLF001
    _aten.masked_select.default: _masked_select,
    _aten.nonzero.default: _nonzero,
}
"""Operations whose answer needs values."""


def _gathers(func: Any) -> bool:
    return str(func).startswith("c10d._allgather_base_")


def _tile(args: Sequence[Any]) -> None:
    """Give what was gathered from all ranks its values: every rank has sent the same."""
    gathered, own = args[0], args[1]
    values = values_of(own) if isinstance(own, torch.Tensor) and own.device.type == "meta" else None
    if values is not None:
        give(gathered, values.repeat(gathered.shape[0] // own.shape[0], *[1] * (own.dim() - 1)))
