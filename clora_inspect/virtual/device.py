"""Whoever asks torch for the CUDA device gets the virtual one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class CudaMeans(TorchFunctionMode):
    """Inside, "cuda" means `device`: in `torch.empty(..., device="cuda")`, `tensor.cuda()` and `tensor.to("cuda")`.

    `tensor.type()` answers a CUDA type's name: megatron-core's optimizers sort parameters by it and refuse others.
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
        options = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0].to(self._device)
        if func is torch.Tensor.type and len(args) == 1 and not options:
            return func(*args).replace("torch.", "torch.cuda.")
        if func is torch.Tensor.pin_memory:
            return args[0]
        # Memory is pinned for the way to a GPU.
        options.pop("pin_memory", None)
        if "device" in options:
            options["device"] = self._instead_of(options["device"])
        if func is torch.Tensor.to:
            args = (args[0], *(self._instead_of(arg) for arg in args[1:]))
        return func(*args, **options)

    def _instead_of(self, argument: object) -> object:
        # A device's number and a dtype's name are no devices by name: only these two types can say "cuda".
        if isinstance(argument, (str, torch.device)) and str(argument).startswith("cuda"):
            return self._device
        return argument
