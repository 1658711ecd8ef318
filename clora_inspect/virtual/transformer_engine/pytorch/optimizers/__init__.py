"""Optimizers and multi-tensor arithmetic."""

from __future__ import annotations

from ...missing import refusing
from .fused_adam import FusedAdam
from .fused_sgd import FusedSGD
from .multi_tensor_apply import multi_tensor_applier, multi_tensor_l2norm, multi_tensor_scale

__all__ = ["FusedAdam", "FusedSGD", "multi_tensor_applier", "multi_tensor_l2norm", "multi_tensor_scale"]
__getattr__ = refusing(__name__)
