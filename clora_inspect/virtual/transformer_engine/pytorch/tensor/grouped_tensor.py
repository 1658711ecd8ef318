"""Stand-in for `transformer_engine.pytorch.tensor.grouped_tensor`: a type for `isinstance`."""

from __future__ import annotations

from typing import Self

import torch

from ...missing import needs_gpu, refuse_unknown_names


class GroupedTensor(torch.Tensor):
    """The type of the weights of all experts in one tensor; no tensor has it here."""

    def __new__(cls, *_args: object, **_options: object) -> Self:
        needs_gpu(f"transformer_engine.pytorch.tensor.{cls.__name__}")


__getattr__ = refuse_unknown_names(__name__)
