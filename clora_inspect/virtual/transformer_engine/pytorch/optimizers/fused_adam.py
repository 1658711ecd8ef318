"""Stand-in for `transformer_engine.pytorch.optimizers.fused_adam`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...missing import needs_gpu, refuse_unknown_names

if TYPE_CHECKING:
    from collections.abc import Iterable


class FusedAdam(torch.optim.AdamW):
    """torch's AdamW with the constructor's arguments of the real class.

    Raises:
        NotImplementedError: an option asks for more than plain AdamW: coupled weight decay, no bias
            correction, or states of other dtypes than the parameters.
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


__getattr__ = refuse_unknown_names(__name__)
