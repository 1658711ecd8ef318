"""Stand-in for `transformer_engine.pytorch.quantized_tensor`: the newer module of
`QuantizedTensor`.
"""

from __future__ import annotations

from ..missing import refuse_unknown_names
from .tensor import QuantizedTensor

__all__ = ["QuantizedTensor"]
__getattr__ = refuse_unknown_names(__name__)
