"""Quantized tensors: the types, so that `isinstance` has an answer. There are none."""

from __future__ import annotations

from typing import Self

import torch

from ...missing import needs_gpu, refusing


class QuantizedTensor(torch.Tensor):
    """Base of all quantized tensors. Inert."""

    def __new__(cls, *_args: object, **_options: object) -> Self:
        needs_gpu(f"transformer_engine.pytorch.tensor.{cls.__name__}")


__all__ = ["QuantizedTensor"]
__getattr__ = refusing(__name__)
