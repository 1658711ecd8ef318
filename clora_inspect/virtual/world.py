"""Enter and leave the virtual world, where megatron-core imports and builds models without a GPU.

megatron-core needs four things of a GPU machine. Each is replaced on entry and restored on exit:

| megatron-core needs                         | inside there is                 | see              |
|---------------------------------------------|---------------------------------|------------------|
| Transformer Engine and other CUDA libraries | pure-PyTorch stand-ins          | `module_set.py`  |
| `torch.cuda`: device, streams, random states| answers that need no GPU        | `cuda.py`        |
| tensors on the device "cuda"                | tensors on meta or the CPU      | `device.py`      |
| collectives of NCCL                         | gloo or the fake backend        | `collectives.py` |

`torch_data_parallel.py` and `dynamo.py` are for code of users and for speed.

The world is state of the whole process (modules, attributes of torch), so it must not be entered in
two threads at a time. A process that keeps models may leave it: their classes stay usable.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from clora.errors import CloraError
from clora_inspect.virtual.module_set import ModuleSet
from clora_inspect.virtual.releases import naming_the_release, refuse_older_releases

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from clora_inspect.job.job import Device

VirtualDevice = Literal["meta", "cpu"]
"""Where parameters live. On `meta` they have shapes but no values, so any size of model fits; on
`cpu` they have values, and small models run forward and backward.
"""

_MODULES = ModuleSet()
"""One set for the process: importing megatron-core takes seconds, so later entries reuse it."""

_device: ContextVar[Device | None] = ContextVar("virtual_device", default=None)


class WorldError(CloraError):
    """The virtual world cannot be entered, or something that needs it was called outside of it."""


@contextmanager
def virtual_megatron(device: VirtualDevice = "meta") -> Iterator[torch.device]:
    """Make megatron-core import and build models on `device`; restore everything on exit.

    Inside, `import megatron.core` gives the real classes, and `import transformer_engine` gives the
    pure-PyTorch stand-in. Both are modules of the virtual world: what was loaded under these names
    before is set aside and put back on exit. So a class imported inside is not the class of the
    same name outside, but it stays usable there.

    On exit `sys.modules`, the import finders, `torch.cuda`, `torch.distributed`, `torch.Tensor` and
    torch's random state are as they were.

    Args:
        device: the device that takes the GPU's place.

    Yields:
        The device that `torch.cuda.current_device()` returns inside.

    Raises:
        WorldError: a world is entered already (they do not nest), or `device` is neither `meta`
            nor `cpu`.
        ReleaseError: megatron-core is not installed, or it is a release that is not supported.
    """
    if device not in ("meta", "cpu"):
        raise WorldError(
            f"device = {device!r}: the virtual world lives on 'meta' or 'cpu'; a real GPU needs no virtual world."
        )
    refuse_older_releases()
    with enter_world(device), ExitStack() as stack:
        # These files import torch, which takes seconds: the command line imports this module but
        # often never enters the world.
        import torch

        from clora_inspect.virtual.collectives import cpu_collectives
        from clora_inspect.virtual.cuda import virtual_cuda
        from clora_inspect.virtual.device import RedirectCuda
        from clora_inspect.virtual.dynamo import without_dynamo
        from clora_inspect.virtual.torch_data_parallel import holding_data_parallel

        cuda_device = torch.device(device)
        # Only for meta tensors does torch compute results (their shapes) in Python.
        if device == "meta":
            stack.enter_context(without_dynamo())
        stack.enter_context(virtual_cuda(cuda_device))
        stack.enter_context(RedirectCuda(cuda_device))
        stack.enter_context(_MODULES.installed())
        stack.enter_context(cpu_collectives())
        stack.enter_context(holding_data_parallel())
        # Restores the CPU's generator, which is also the virtual CUDA device's.
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(naming_the_release())
        yield cuda_device


@contextmanager
def enter_world(device: Device) -> Iterator[None]:
    """Note that a world is entered on `device`, so that no second one is.

    Raises:
        WorldError: a world is entered already.
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
    """Return the device of the world that is entered; `cuda` in the real one.

    Raises:
        WorldError: no world is entered.
    """
    device = _device.get()
    if device is None:
        raise WorldError("Not inside a virtual world: write `with virtual_megatron(device): ...` around this.")
    return device
