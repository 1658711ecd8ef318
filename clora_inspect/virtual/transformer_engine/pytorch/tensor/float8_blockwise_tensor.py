"""Stand-in for `transformer_engine.pytorch.tensor.float8_blockwise_tensor`: a type for
`isinstance`.
"""

from __future__ import annotations

from ...missing import refuse_unknown_names
from . import QuantizedTensor


class Float8BlockwiseQTensor(QuantizedTensor):
    """The type of a tensor in block-scaled FP8; no tensor has it here."""


__getattr__ = refuse_unknown_names(__name__)
