"""Whoever asks torch for the CUDA device gets the virtual one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CUDA, _TYPE, _PIN_MEMORY, _TO = torch.Tensor.cuda, torch.Tensor.type, torch.Tensor.pin_memory, torch.Tensor.to
_EXCEPTIONS = frozenset((_CUDA, _TYPE, _PIN_MEMORY, _TO))
"""Functions that mean a device without naming one by keyword."""


class CudaMeans(TorchFunctionMode):
    """Inside, "cuda" means `device`: in `torch.empty(..., device="cuda")`, `tensor.cuda()` and
    `tensor.to("cuda")`.

    `tensor.type()` answers a CUDA type's name: megatron-core's optimizers sort parameters by it and
    refuse others.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` with every CUDA device among its arguments replaced."""
        # Whatever touches a tensor comes by here, half a million times while a large model is made:
        # the rule first.
        if not kwargs and func not in _EXCEPTIONS:
            return func(*args)
        options = dict(kwargs or {})
        if func is _CUDA:
            return args[0].to(self._device)
        if func is _TYPE and len(args) == 1 and not options:
            return func(*args).replace("torch.", "torch.cuda.")
        if func is _PIN_MEMORY:
            return args[0]
        # Memory is pinned for the way to a GPU.
        options.pop("pin_memory", None)
        if "device" in options:
            options["device"] = self._instead_of(options["device"])
        if func is _TO:
            args = (args[0], *(self._instead_of(arg) for arg in args[1:]))
        return func(*args, **options)

    def _instead_of(self, argument: object) -> object:
        # A device's number and a dtype's name are no devices by name: only these two types can say
        # "cuda".
        if isinstance(argument, (str, torch.device)) and str(argument).startswith("cuda"):
            return self._device
        return argument
