"""Stand-in for `transformer_engine.pytorch.ops`: operations that a GPU can fuse.

megatron-core uses them with `use_transformer_engine_op_fuser`. Each can be constructed, which is
all that building a model needs, and raises NotImplementedError in its forward.
"""

from __future__ import annotations

from ...missing import needs_gpu, refuse_unknown_names
from .op import BasicOperation, FusibleOperation


class Sequential(FusibleOperation):
    def __init__(self, *_args: object, **_options: object) -> None:
        needs_gpu("transformer_engine.pytorch.ops.Sequential")


class _GpuOperation(BasicOperation):
    def __init__(self, *_args: object, **_options: object) -> None:
        super().__init__()

    def forward(self, *_args: object, **_options: object) -> None:
        needs_gpu(f"transformer_engine.pytorch.ops.{type(self).__name__}")


class GELU(_GpuOperation): ...


class GEGLU(_GpuOperation): ...


class ReLU(_GpuOperation): ...


class ReGLU(_GpuOperation): ...


class SiLU(_GpuOperation): ...


class SwiGLU(_GpuOperation): ...


class LayerNorm(_GpuOperation): ...


class RMSNorm(_GpuOperation): ...


class BasicLinear(_GpuOperation): ...


class Bias(_GpuOperation): ...


class AllReduce(_GpuOperation): ...


class ReduceScatter(_GpuOperation): ...


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
__getattr__ = refuse_unknown_names(__name__)
