"""Stand-in for `transformer_engine.pytorch.cpu_offload_v1`: the older module of `cpu_offload`."""

from __future__ import annotations

from ..missing import refuse_unknown_names
from .cpu_offload import get_cpu_offload_context, is_cpu_offload_enabled, mark_activation_offload

__all__ = ["get_cpu_offload_context", "is_cpu_offload_enabled", "mark_activation_offload"]

__getattr__ = refuse_unknown_names(__name__)
