"""`Float8Tensor` under its older name."""

from __future__ import annotations

from ..missing import refusing
from .tensor.float8_tensor import Float8Tensor

__all__ = ["Float8Tensor"]
__getattr__ = refusing(__name__)
