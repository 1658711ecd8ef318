"""Stand-in for `transformer_engine.pytorch.cpu_offload`: moving activations to the CPU.

megatron-core asks for a context even if offloading is off. On, it needs a GPU to move them from.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ..missing import needs_gpu, refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


def get_cpu_offload_context(
    enabled: bool = False, *_args: object, **_options: object
) -> tuple[AbstractContextManager[None], Callable[[Any], Any]]:
    """Return a context to run layers in and a function to call between them; both do nothing.

    Raises:
        NotImplementedError: `enabled` is true.
    """
    if enabled:
        needs_gpu("transformer_engine.pytorch.get_cpu_offload_context(enabled=True)")
    return nullcontext(), lambda tensor: tensor


def mark_activation_offload(*_tensors: object) -> None:
    pass


def is_cpu_offload_enabled() -> bool:
    return False


__getattr__ = refuse_unknown_names(__name__)
