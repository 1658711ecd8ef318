"""Leave fully sharded data parallelism out of the virtual world: data parallelism changes no shape,
and it is slow to import.

megatron-core imports its own FSDP, torch's, and torch's distributed tensors, each in a `try`, and
does without them on a torch that has none. They bring sympy, torch.export and
torch.distributed.checkpoint: a third of what a plan would import.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGATRON_FSDP = "megatron.core.distributed.fsdp.src.megatron_fsdp"

_LEFT_OUT = {
    "megatron.core.utils": "torch.distributed._tensor",
    "megatron.core.distributed.finalize_model_grads": "torch.distributed._tensor",
    "megatron.core.distributed.torch_fully_sharded_data_parallel": "torch.distributed.fsdp",
    "megatron.core.transformer.fsdp_dtensor_checkpoint": "torch.distributed._tensor",
}
"""Module of megatron-core -> the module of torch that it tries to import."""

_WITH_CHECKPOINTS = "megatron.core.transformer.fsdp_dtensor_checkpoint"
_CHECKPOINT = "torch.distributed.checkpoint"
"""What that one imports outside of any `try`, for one line of a function that loads FSDP's
checkpoints.
"""


def is_left_out(wanted: str, importer: str | None) -> bool:
    """Whether the module `wanted` does not exist for the module `importer` of the virtual world."""
    return wanted == MEGATRON_FSDP or (importer is not None and _LEFT_OUT.get(importer) == wanted)


@contextmanager
def deferred_for(importer: str) -> Iterator[None]:
    """While the body of `importer` runs, torch's checkpoints are there to be named, and imported
    when they are used.
    """
    if importer != _WITH_CHECKPOINTS or _CHECKPOINT in sys.modules:
        yield
        return
    sys.modules[_CHECKPOINT] = _Deferred(_CHECKPOINT)
    try:
        yield
    finally:
        del sys.modules[_CHECKPOINT]


class _Deferred(ModuleType):
    """A package whose submodules are imported when one of their attributes is wanted."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _DeferredModule(f"{self.__name__}.{name}")


class _DeferredModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)
