"""Stand-in for `transformer_engine.pytorch.tensor`: types of quantized tensors.

megatron-core asks `isinstance(tensor, QuantizedTensor)`. The types exist so that the answer is no;
making such a tensor raises NotImplementedError.
"""

from __future__ import annotations

from typing import Self

import torch

from ...missing import needs_gpu, refuse_unknown_names


class QuantizedTensor(torch.Tensor):
    def __new__(cls, *_args: object, **_options: object) -> Self:
        needs_gpu(f"transformer_engine.pytorch.tensor.{cls.__name__}")


__all__ = ["QuantizedTensor"]
__getattr__ = refuse_unknown_names(__name__)
