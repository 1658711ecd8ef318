"""Stand-in for `transformer_engine.pytorch.optimizers.fused_sgd`: torch's SGD."""

from __future__ import annotations

import torch

from ...missing import refuse_unknown_names


class FusedSGD(torch.optim.SGD): ...


__getattr__ = refuse_unknown_names(__name__)
