"""Stand-in for `transformer_engine.pytorch.ops`: operations that a GPU can fuse.

megatron-core uses them with `use_transformer_engine_op_fuser`. Each can be constructed, which is
all that building a model needs, and raises NotImplementedError in its forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...missing import needs_gpu, refuse_unknown_names
from .op import BasicOperation, FusibleOperation

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_INSTEAD = (
    "megatron-core fuses operations with use_transformer_engine_op_fuser, fused_residual_rmsnorm or "
    "use_grouped_gemm_for_shared_expert: build the model without them."
)


class Sequential(FusibleOperation):
    def __init__(self, *_args: object, **_options: object) -> None:
        needs_gpu("transformer_engine.pytorch.ops.Sequential", _INSTEAD)


class _GpuOperation(BasicOperation):
    def __init__(self, *_args: object, **_options: object) -> None:
        super().__init__()

    def forward(self, *_args: object, **_options: object) -> None:
        needs_gpu(f"transformer_engine.pytorch.ops.{type(self).__name__}", _INSTEAD)


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


# megatron-core asks for the parameters of these constructors, to see what a release can do.
class GroupedLinear(_GpuOperation):
    def __init__(
        self,
        num_groups: int,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        rng_state_tracker_function: Callable[[], object] | None = None,
        accumulate_into_main_grad: bool = False,
        single_grouped_weight: bool = False,
        single_grouped_bias: bool = False,
        delay_wgrad_compute: bool = False,
        scale_bias: bool = False,
    ) -> None:
        super().__init__()


class ScaledSwiGLU(_GpuOperation):
    def __init__(self, glu_interleave_size: int | None = None, *, activation_recompute_in_mlp: bool = False) -> None:
        super().__init__()


class ScaledClampedQGeGLU(_GpuOperation):
    def __init__(
        self,
        glu_interleave_size: int | None = None,
        *,
        activation_recompute_in_mlp: bool = False,
        limit: float = 7.0,
        alpha: float = 1.702,
        glu_linear_offset: float = 1.0,
    ) -> None:
        super().__init__()


class ScaledSReLU(_GpuOperation):
    def __init__(self, *, activation_recompute_in_mlp: bool = False) -> None:
        super().__init__()


class MakeExtraOutput(_GpuOperation):
    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()


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
    "GroupedLinear",
    "LayerNorm",
    "MakeExtraOutput",
    "RMSNorm",
    "ReGLU",
    "ReLU",
    "ReduceScatter",
    "ScaledClampedQGeGLU",
    "ScaledSReLU",
    "ScaledSwiGLU",
    "Sequential",
    "SiLU",
    "SwiGLU",
]
__getattr__ = refuse_unknown_names(__name__)
