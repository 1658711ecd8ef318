"""Keep megatron-core from importing fully sharded data parallelism (FSDP) in the virtual world.

megatron-core imports its own FSDP, torch's FSDP and torch's distributed tensors, mostly in a
`try ... except ImportError`, and works without them on a torch that lacks them. These imports pull
in sympy, torch.export and torch.distributed.checkpoint: a third of all that a plan would import.
A plan needs none of it, because data parallelism changes no shape.

Only the modules named here do without. Everybody else, for example a user's own code, gets the real
modules.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

MEGATRON_FSDP = "megatron.core.distributed.fsdp.src.megatron_fsdp"

_ADAPTER = "megatron.core.distributed.fsdp.mcore_fsdp_adapter"
_CHECKPOINT = "megatron.core.transformer.fsdp_dtensor_checkpoint"
_SERIALIZATION = "megatron.core.dist_checkpointing.serialization"

_REFUSED = {
    ("megatron.core.utils", "torch.distributed._tensor"),
    ("megatron.core.distributed.finalize_model_grads", "torch.distributed._tensor"),
    ("megatron.core.distributed.torch_fully_sharded_data_parallel", "torch.distributed.fsdp"),
    (_CHECKPOINT, "torch.distributed._tensor"),
    (_ADAPTER, MEGATRON_FSDP),
}
"""Module of megatron-core, and what it imports in a `try`: it is told that there is none."""

_DEFERRED = {
    (_CHECKPOINT, "torch.distributed.checkpoint"),
    # From 0.17: subclasses of torch's planners, and with them distributed tensors and sympy.
    (_SERIALIZATION, "megatron.core.dist_checkpointing.strategies.torch"),
    # From 0.18.
    ("megatron.core.pipeline_parallel.combined_1f1b", f"{MEGATRON_FSDP}.utils"),
    # From 0.20.
    ("megatron.core.optimizer.fully_sharded_optimizer", f"{MEGATRON_FSDP}.experimental.parameter_group"),
    (_ADAPTER, "torch.distributed.tensor"),
}
"""Module of megatron-core, and what it imports outside of any `try` for functions of FSDP and of
checkpoints: it is imported when one of them runs.
"""


def is_refused(wanted: str, importer: str) -> bool:
    """Return whether the module `importer` must not find the module `wanted`."""
    return (importer, wanted) in _REFUSED


def is_deferred(wanted: str, importer: str) -> bool:
    """Return whether `importer` gets names of `wanted` that import it at their first use."""
    return (importer, wanted) in _DEFERRED and wanted not in sys.modules


class Deferred(ModuleType):
    """A module whose attributes are `_DeferredName`s."""

    def __getattr__(self, name: str) -> Any:
        # Python's import system asks for `__path__`, `__spec__` and others: there are none.
        if name.startswith("__"):
            raise AttributeError(name)
        return _DeferredName(self.__name__, name)


class _DeferredName:
    """A function, a class or a submodule, which is imported when it is called or an attribute of it
    is read.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> Any:
        return getattr(import_module(self._module), self._name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real()(*args, **options)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)
