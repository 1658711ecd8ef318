"""`FusedAdam`: torch's AdamW, or Adam where weight decay is not decoupled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...missing import needs_gpu, refusing

if TYPE_CHECKING:
    from collections.abc import Iterable


class FusedAdam(torch.optim.AdamW):
    """AdamW with the name and the options of Transformer Engine's, those that change precision
    aside.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adam_w_mode: bool = True,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        if not (bias_correction and adam_w_mode) or options.get("master_weights") or options.get("use_decoupled_grad"):
            needs_gpu("transformer_engine.pytorch.optimizers.FusedAdam beyond plain AdamW")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)


__getattr__ = refusing(__name__)
