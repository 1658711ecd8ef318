"""Enter and leave the virtual world, in which megatron-core and Transformer Engine import and run
without a GPU.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from clora.errors import CloraError
from clora_inspect.virtual.module_set import ModuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from clora_inspect.job.job import Device

VirtualDevice = Literal["meta", "cpu"]
"""Where parameters live: `meta` has shapes only (any size of model), `cpu` has values (small
models, forwards).
"""

_MODULES = ModuleSet()
_device: ContextVar[Device | None] = ContextVar("virtual_device", default=None)


class WorldError(CloraError):
    """The virtual world cannot be entered, or something was asked for outside of it."""


@contextmanager
def virtual_megatron(device: VirtualDevice = "meta") -> Iterator[torch.device]:
    """Make megatron-core and its GPU libraries importable and constructible on `device`; undo
    everything on exit.

    Inside, `import megatron.core` gives the real classes and `import transformer_engine` the
    pure-PyTorch stand-in, in a set of modules of our own: whatever was loaded under those names
    before is set aside and comes back. Classes imported inside stay usable outside, but a module
    imported inside is not the one of the same name outside.

    Args:
        device: where "the GPU" is. `meta` parameters have no values.

    Yields:
        The device that `torch.cuda.current_device()` names inside.

    Raises:
        WorldError: the world is already entered (it does not nest), or `device` is neither `meta`
            nor `cpu`.
    """
    if device not in ("meta", "cpu"):
        raise WorldError(
            f"device = {device!r}: the virtual world lives on 'meta' or 'cpu'; a real GPU needs no virtual world."
        )
    with entered(device), ExitStack() as stack:
        import torch

        from clora_inspect.virtual.collectives import cpu_collectives
        from clora_inspect.virtual.cuda import virtual_cuda
        from clora_inspect.virtual.device import CudaMeans
        from clora_inspect.virtual.dynamo import without_dynamo

        cuda_device = torch.device(device)
        if device == "meta":
            stack.enter_context(without_dynamo())
        stack.enter_context(virtual_cuda(cuda_device))
        stack.enter_context(CudaMeans(cuda_device))
        stack.enter_context(_MODULES.installed())
        stack.enter_context(cpu_collectives())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        yield cuda_device


@contextmanager
def entered(device: Device) -> Iterator[None]:
    """Be the one world that this thread of execution is in.

    Raises:
        WorldError: it is in one already.
    """
    if _device.get() is not None:
        raise WorldError(
            f"A world is already entered, on {_device.get()!r}: they do not nest. "
            f"Leave the outer `with virtual_megatron(...)` first, or build both models inside it."
        )
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


def current_device() -> Device:
    """The device of the world we are in; `cuda` in the real one.

    Raises:
        WorldError: we are in none.
    """
    device = _device.get()
    if device is None:
        raise WorldError("Not inside a virtual world: write `with virtual_megatron(device): ...` around this.")
    return device
