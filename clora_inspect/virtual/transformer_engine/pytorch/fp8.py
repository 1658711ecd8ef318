"""`quantization` under its older name."""

from __future__ import annotations

from ..missing import refusing
from .quantization import FP8GlobalStateManager, check_fp8_support, fp8_autocast, fp8_model_init

__all__ = ["FP8GlobalStateManager", "check_fp8_support", "fp8_autocast", "fp8_model_init"]
__getattr__ = refusing(__name__)
