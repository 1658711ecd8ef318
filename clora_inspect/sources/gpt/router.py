"""A router that chooses experts by softmax scores plus a bias, as ERNIE 4.5 does."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.moe.router import TopKRouter


class BiasedSoftmaxRouter(TopKRouter):
    """A router with a bias on the softmax scores, which counts for the choice of the experts and
    not for their weights. megatron-core's own bias needs sigmoid scores.

    The bias is a frozen parameter, as in Hugging Face.
    """

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, **options)
        bias = torch.zeros(config.num_moe_experts, dtype=torch.float32, device=self.weight.device)
        self.e_score_correction_bias = torch.nn.Parameter(bias, requires_grad=False)

    def routing(self, logits: torch.Tensor, *args: Any, **options: Any) -> Any:
        """Return megatron-core's weights and map for the experts that the bias chooses.

        Args:
            logits: `[..., experts]`.
            args: other arguments of megatron-core's `routing`.
            options: its keyword arguments.
        """
        scores = logits.softmax(dim=-1, dtype=torch.float32) + self.e_score_correction_bias
        chosen = scores.topk(self.topk, dim=-1).indices
        # megatron-core then finds just these, and takes its softmax over them.
        left = torch.full_like(logits, float("-inf")).scatter(-1, chosen, logits.gather(-1, chosen))
        return super().routing(left, *args, **options)
