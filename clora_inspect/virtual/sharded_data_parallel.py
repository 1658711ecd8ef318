"""Keep megatron-core from importing fully sharded data parallelism (FSDP) in the virtual world.

megatron-core imports its own FSDP, torch's FSDP and torch's distributed tensors, each in a
`try ... except ImportError`, and works without them on a torch that lacks them. These imports pull
in sympy, torch.export and torch.distributed.checkpoint: a third of all that a plan would import.
A plan needs none of it, because data parallelism changes no shape.
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

_REFUSED = {
    "megatron.core.utils": "torch.distributed._tensor",
    "megatron.core.distributed.finalize_model_grads": "torch.distributed._tensor",
    "megatron.core.distributed.torch_fully_sharded_data_parallel": "torch.distributed.fsdp",
    "megatron.core.transformer.fsdp_dtensor_checkpoint": "torch.distributed._tensor",
}
"""Module of megatron-core -> the module of torch that it tries to import. Only these four imports
are refused: everybody else, for example a user's own code, gets the real module of torch.
"""

_CHECKPOINT_IMPORTER = "megatron.core.transformer.fsdp_dtensor_checkpoint"
_CHECKPOINT = "torch.distributed.checkpoint"
"""`fsdp_dtensor_checkpoint` imports `default_planner` from this package outside of any `try`, for
one function that loads FSDP's checkpoints. Refusing the import would fail, so it is deferred.
"""


def is_refused(wanted: str, importer: str | None) -> bool:
    """Return whether the module `importer` must not find the module `wanted`.

    Args:
        wanted: the full name of the module that is imported.
        importer: the module of the virtual world whose body runs now; None if no body runs.
    """
    return wanted == MEGATRON_FSDP or (importer is not None and _REFUSED.get(importer) == wanted)


@contextmanager
def deferred_for(importer: str) -> Iterator[None]:
    """While the body of `importer` runs, let it import from `torch.distributed.checkpoint` without
    loading that package.

    What it gets loads the real module at the first use of an attribute. Does nothing for all
    importers but one, or if the package is loaded already.
    """
    if importer != _CHECKPOINT_IMPORTER or _CHECKPOINT in sys.modules:
        yield
        return
    sys.modules[_CHECKPOINT] = _DeferredPackage(_CHECKPOINT)
    try:
        yield
    finally:
        del sys.modules[_CHECKPOINT]


class _DeferredPackage(ModuleType):
    """A package of which any attribute is a `_DeferredModule` of that name."""

    def __getattr__(self, name: str) -> Any:
        # Python's import system asks for `__path__`, `__spec__` and others: there are none.
        if name.startswith("__"):
            raise AttributeError(name)
        return _DeferredModule(f"{self.__name__}.{name}")


class _DeferredModule(ModuleType):
    """A module that imports the real one of its name when an attribute is read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)
