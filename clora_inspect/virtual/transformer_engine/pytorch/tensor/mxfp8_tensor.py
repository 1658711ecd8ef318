"""`MXFP8Tensor`: a type for `isinstance`."""

from __future__ import annotations

from ...missing import refusing
from . import QuantizedTensor


class MXFP8Tensor(QuantizedTensor):
    """A tensor in block-scaled FP8 with power-of-two scales. Inert."""


__getattr__ = refusing(__name__)
