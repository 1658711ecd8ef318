"""Redirect the device "cuda" in arguments of torch functions to the virtual device.

megatron-core writes `device="cuda"` and `tensor.cuda()` in many places. `cuda.py` cannot catch
these: torch parses the device in C++, and would allocate on a real GPU or raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CUDA, _TYPE, _PIN_MEMORY, _TO = torch.Tensor.cuda, torch.Tensor.type, torch.Tensor.pin_memory, torch.Tensor.to
_DEVICE_METHODS = frozenset((_CUDA, _TYPE, _PIN_MEMORY, _TO))
"""Methods that can mean a device without the keyword `device`."""


class RedirectCuda(TorchFunctionMode):
    """Make "cuda" mean `device` in `torch.empty(..., device="cuda")`, `tensor.cuda()` and
    `tensor.to("cuda")`.

    `tensor.type()` returns the name of a CUDA type, for example 'torch.cuda.FloatTensor'.
    megatron-core's optimizers (`optimizer/optimizer.py`, `optimizer/distrib_optimizer.py`) group
    parameters by this name and raise a TypeError on a CPU type.
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
        """Call `func` with each CUDA device among its arguments replaced."""
        # torch calls this for each operation on a tensor, half a million times while a large model
        # is built. So the usual case, in which nothing can name a device, is decided first.
        if not kwargs and func not in _DEVICE_METHODS:
            return func(*args)
        options = dict(kwargs or {})
        if func is _CUDA:
            return args[0].to(self._device)
        if func is _TYPE and len(args) == 1 and not options:
            return func(*args).replace("torch.", "torch.cuda.")
        if func is _PIN_MEMORY:
            return args[0]
        # Pinned memory speeds up copies to a GPU, and without CUDA torch refuses to pin any.
        options.pop("pin_memory", None)
        if "device" in options:
            options["device"] = self._redirected(options["device"])
        if func is _TO:
            args = (args[0], *(self._redirected(arg) for arg in args[1:]))
        return func(*args, **options)

    def _redirected(self, argument: object) -> object:
        # `tensor.to` also takes dtypes and tensors. Only these two types can say "cuda", and str()
        # of a tensor would format all its values.
        if isinstance(argument, (str, torch.device)) and str(argument).startswith("cuda"):
            return self._device
        return argument
