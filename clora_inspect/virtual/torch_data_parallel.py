"""Let torch's `DistributedDataParallel` wrap a model of the virtual world.

Its constructor compares shapes with other ranks and copies values from them: it reads numbers from
tensors, and those on meta have none. It also refuses `device_ids` for a model on the CPU. In the
virtual world the wrapper only holds the model, which is all that a plan and a proof take from it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def holding_data_parallel() -> Iterator[None]:
    """Make `torch.nn.parallel.DistributedDataParallel(model, ...)` a module around `model`."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    def hold(wrapper: Any, module: nn.Module, *_args: object, **_options: object) -> None:
        torch.nn.Module.__init__(wrapper)
        wrapper.module = module

    with replaced(DistributedDataParallel, {"__init__": hold}):
        yield
