"""Compute the bytes that one rank spends on weights, gradients and optimizer states. Pure."""

from __future__ import annotations

WEIGHT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of one parameter of the base model, by its dtype."""

ADAPTER_WEIGHT = 2
"""Bytes of one adapter parameter in bf16."""
GRADIENT = 4
"""Bytes of one gradient, accumulated in fp32."""
ADAM_STATES = 12
"""Bytes that Adam keeps for one parameter in mixed precision: an fp32 master weight and two fp32
moments. megatron-core's distributed optimizer would split them over the data-parallel ranks.
"""


def weight_bytes(params: int, dtype: str) -> int:
    """Return the bytes of `params` base parameters; an unknown dtype counts as bf16."""
    return params * WEIGHT_BYTES.get(dtype.removeprefix("torch."), ADAPTER_WEIGHT)


def training_bytes(adapter_params: int) -> int:
    """Return the bytes of weights, gradients and Adam states of `adapter_params` parameters."""
    return adapter_params * (ADAPTER_WEIGHT + GRADIENT + ADAM_STATES)
