"""Offloading of activations to the CPU. Inert: they are there already."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ..missing import needs_gpu, refusing

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


def get_cpu_offload_context(
    enabled: bool = False, *_args: object, **_options: object
) -> tuple[AbstractContextManager[None], Callable[[Any], Any]]:
    """A context for the layers to run in and what to call between them: nothing and nothing.

    Raises:
        NotImplementedError: offloading is enabled.
    """
    if enabled:
        needs_gpu("transformer_engine.pytorch.get_cpu_offload_context(enabled=True)")
    return nullcontext(), lambda tensor: tensor


def mark_activation_offload(*_tensors: object) -> None:
    """Nothing to mark."""


def is_cpu_offload_enabled() -> bool:
    """Whether activations are offloaded."""
    return False


__getattr__ = refusing(__name__)
