"""Fusible operations. They have their names only: `use_transformer_engine_op_fuser` computes on a
GPU.
"""

from __future__ import annotations

from ...missing import needs_gpu, refusing
from .op import BasicOperation, FusibleOperation


class Sequential(FusibleOperation):
    """Inert."""

    def __init__(self, *_args: object, **_options: object) -> None:
        needs_gpu("transformer_engine.pytorch.ops.Sequential")


class _Inert(BasicOperation):
    """An operation that can be constructed, which is all that building a model asks for."""

    def __init__(self, *_args: object, **_options: object) -> None:
        super().__init__()

    def forward(self, *_args: object, **_options: object) -> None:
        """Inert."""
        needs_gpu(f"transformer_engine.pytorch.ops.{type(self).__name__}")


class GELU(_Inert):
    """Inert."""


class GEGLU(_Inert):
    """Inert."""


class ReLU(_Inert):
    """Inert."""


class ReGLU(_Inert):
    """Inert."""


class SiLU(_Inert):
    """Inert."""


class SwiGLU(_Inert):
    """Inert."""


class LayerNorm(_Inert):
    """Inert."""


class RMSNorm(_Inert):
    """Inert."""


class BasicLinear(_Inert):
    """Inert."""


class Bias(_Inert):
    """Inert."""


class AllReduce(_Inert):
    """Inert."""


class ReduceScatter(_Inert):
    """Inert."""


__all__ = [
    "GEGLU",
    "GELU",
    "AllReduce",
    "BasicLinear",
    "BasicOperation",
    "Bias",
    "FusibleOperation",
    "LayerNorm",
    "RMSNorm",
    "ReGLU",
    "ReLU",
    "ReduceScatter",
    "Sequential",
    "SiLU",
    "SwiGLU",
]
__getattr__ = refusing(__name__)
