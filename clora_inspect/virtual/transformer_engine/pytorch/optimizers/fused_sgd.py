"""`FusedSGD`: torch's SGD."""

from __future__ import annotations

import torch

from ...missing import refusing


class FusedSGD(torch.optim.SGD):
    """SGD under the name of Transformer Engine's."""


__getattr__ = refusing(__name__)
