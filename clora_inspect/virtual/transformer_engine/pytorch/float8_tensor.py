"""Stand-in for `transformer_engine.pytorch.float8_tensor`: the older module of `Float8Tensor`."""

from __future__ import annotations

from ..missing import refuse_unknown_names
from .tensor.float8_tensor import Float8Tensor

__all__ = ["Float8Tensor"]
__getattr__ = refuse_unknown_names(__name__)
