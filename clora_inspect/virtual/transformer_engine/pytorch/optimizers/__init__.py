"""Stand-in for `transformer_engine.pytorch.optimizers`: what megatron-core imports."""

from __future__ import annotations

from ...missing import refuse_unknown_names
from .fused_adam import FusedAdam
from .fused_sgd import FusedSGD
from .multi_tensor_apply import multi_tensor_applier, multi_tensor_l2norm, multi_tensor_scale, multi_tensor_scale_tensor

__all__ = [
    "FusedAdam",
    "FusedSGD",
    "multi_tensor_applier",
    "multi_tensor_l2norm",
    "multi_tensor_scale",
    "multi_tensor_scale_tensor",
]
__getattr__ = refuse_unknown_names(__name__)
