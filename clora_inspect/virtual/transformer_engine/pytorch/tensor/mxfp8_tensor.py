"""Stand-in for `transformer_engine.pytorch.tensor.mxfp8_tensor`: a type for `isinstance`."""

from __future__ import annotations

from ...missing import refuse_unknown_names
from . import QuantizedTensor


class MXFP8Tensor(QuantizedTensor):
    """The type of a tensor in block-scaled FP8 with power-of-two scales; no tensor has it here."""


__getattr__ = refuse_unknown_names(__name__)
