"""Linears that megatron-core cannot be asked for by a field of its config."""

from __future__ import annotations

from typing import Any

from megatron.core.extensions import transformer_engine
from megatron.core.extensions.transformer_engine import TERowParallelLinear


class BiasedTERowParallelLinear(TERowParallelLinear):
    """A row-parallel linear with a bias. megatron-core gives attention's output projection one only
    if the MLP has biases as well.
    """

    def __init__(self, input_size: int, output_size: int, *, bias: bool, **options: Any) -> None:
        del bias
        super().__init__(input_size, output_size, bias=True, **options)


class TELayerNormColumnParallelLinear(transformer_engine.TELayerNormColumnParallelLinear):
    """A linear with a norm of its input, under the name of megatron-core's class.

    megatron-core refuses its own in latent attention whose `qk_layernorm` is off, and with it on
    normalises all inputs.
    """
