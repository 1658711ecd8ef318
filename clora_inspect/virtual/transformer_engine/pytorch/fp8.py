"""Stand-in for `transformer_engine.pytorch.fp8`: the older name of `quantization`, which
megatron-core imports.
"""

from __future__ import annotations

from ..missing import refuse_unknown_names
from .quantization import FP8GlobalStateManager, check_fp8_support, fp8_autocast, fp8_model_init

__all__ = ["FP8GlobalStateManager", "check_fp8_support", "fp8_autocast", "fp8_model_init"]
__getattr__ = refuse_unknown_names(__name__)
