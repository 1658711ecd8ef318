"""The older offloading of activations to the CPU, as inert as the newer one."""

from __future__ import annotations

from ..missing import refusing
from .cpu_offload import get_cpu_offload_context, is_cpu_offload_enabled, mark_activation_offload

__all__ = ["get_cpu_offload_context", "is_cpu_offload_enabled", "mark_activation_offload"]

__getattr__ = refusing(__name__)
