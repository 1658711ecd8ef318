"""Stand-in for `transformer_engine.pytorch.tensor.nvfp4_tensor`: a type for `isinstance`."""

from __future__ import annotations

from ...missing import refuse_unknown_names
from . import QuantizedTensor


class NVFP4Tensor(QuantizedTensor):
    """The type of a tensor in block-scaled FP4; no tensor has it here."""


__getattr__ = refuse_unknown_names(__name__)
