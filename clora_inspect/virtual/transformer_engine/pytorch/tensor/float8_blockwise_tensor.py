"""`Float8BlockwiseQTensor`: a type for `isinstance`."""

from __future__ import annotations

from ...missing import refusing
from . import QuantizedTensor


class Float8BlockwiseQTensor(QuantizedTensor):
    """A tensor in block-scaled FP8. Inert."""


__getattr__ = refusing(__name__)
