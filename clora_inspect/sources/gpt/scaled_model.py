"""GPT with constant factors that megatron-core does not have: on embeddings, residuals and logits.

The factors are attributes of the config, which `clora_inspect.sources.config` sets although
`TransformerConfig` does not declare them. A factor that is absent or None is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import GPTModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FACTORS = ("embedding_multiplier", "residual_multiplier", "logits_divisor", "final_logit_softcapping")
"""Attributes of the config that `ScaledGPTModel` reads. A model with any of them is built of it."""


class ScaledGPTModel(GPTModel):
    """GPT with scaled embeddings, and with logits that are scaled and then capped."""

    def _preprocess(self, *args: Any, **options: Any) -> Any:
        decoder_input, *rest = super()._preprocess(*args, **options)
        factor = factor_of(self.config, "embedding_multiplier")
        if factor is not None and self.pre_process and decoder_input is not None:
            # Hugging Face rounds the factor to the activations' dtype before it multiplies.
            decoder_input = decoder_input * torch.tensor(factor, dtype=decoder_input.dtype)
        return decoder_input, *rest

    def _postprocess(self, *args: Any, **options: Any) -> Any:
        output = super()._postprocess(*args, **options)
        # With labels the output is a loss, and `compute_language_model_loss` has scaled its logits.
        is_loss = options.get("labels") is not None
        return output if is_loss or not self.post_process else self._scaled(output)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Any:
        """Return the cross entropy of the scaled logits."""
        return super().compute_language_model_loss(labels, self._scaled(logits))

    def _scaled(self, logits: Tensor) -> Tensor:
        divisor, cap = (factor_of(self.config, name) for name in ("logits_divisor", "final_logit_softcapping"))
        if divisor is not None:
            logits = logits / divisor
        return logits if cap is None else cap * torch.tanh(logits / cap)


class Gemma2Model(ScaledGPTModel):
    """Gemma 2. Snapshots have the name of the class."""


def factor_of(config: Any, name: str) -> float | None:
    """Return the factor called `name`; None when the model has none."""
    factor: float | None = vars(config).get(name)
    return factor


def scaled_bias_dropout_add(factor: float) -> Callable[..., Any]:
    """Return megatron-core's `get_bias_dropout_add` for a block whose output is multiplied by
    `factor` before it joins the residual.
    """

    def get(training: bool, fused: bool) -> Callable[..., Tensor]:
        add = get_bias_dropout_add(training, fused)

        def scale_and_add(output: tuple[Tensor, Tensor | None], residual: Tensor, dropout: float) -> Tensor:
            x, bias = output
            scaled: Tensor = add((x * factor, None if bias is None else bias * factor), residual, dropout)
            return scaled

        return scale_and_add

    return get
