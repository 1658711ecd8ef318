"""`NVFP4Tensor`: a type for `isinstance`."""

from __future__ import annotations

from ...missing import refusing
from . import QuantizedTensor


class NVFP4Tensor(QuantizedTensor):
    """A tensor in block-scaled FP4. Inert."""


__getattr__ = refusing(__name__)
