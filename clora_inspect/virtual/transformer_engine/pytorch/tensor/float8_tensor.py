"""`Float8Tensor`: a type for `isinstance`."""

from __future__ import annotations

from ...missing import refusing
from . import QuantizedTensor


class Float8Tensor(QuantizedTensor):
    """A tensor in per-tensor scaled FP8. Inert."""


__getattr__ = refusing(__name__)
