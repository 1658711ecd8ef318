"""Stand-in for `transformer_engine.pytorch.tensor.float8_tensor`: a type for `isinstance`."""

from __future__ import annotations

from ...missing import refuse_unknown_names
from . import QuantizedTensor


class Float8Tensor(QuantizedTensor):
    """The type of a tensor in per-tensor scaled FP8; no tensor has it here."""


__getattr__ = refuse_unknown_names(__name__)
