"""Compute the bytes that one rank spends on weights, gradients and optimizer states. `ASSUMED`, the
assumptions in words, is printed with the figures.
"""

from __future__ import annotations

from clora_inspect.formats.quantities import size

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

ASSUMED = (
    f"assumed: adapter weights bf16 ({ADAPTER_WEIGHT} B), gradients fp32 ({GRADIENT} B), "
    f"Adam fp32 master weight and two moments ({ADAM_STATES} B), not split over data parallelism; "
    "activations are not counted"
)


def adapter_cost(params: int) -> str:
    """Describe the memory that one rank spends on `params` adapter parameters."""
    return (
        f"{size(params * ADAPTER_WEIGHT)} weights, {size(params * GRADIENT)} gradients, "
        f"{size(params * ADAM_STATES)} Adam states"
    )


def weight_bytes(params: int, dtype: str) -> int:
    """Return the bytes of `params` base parameters; an unknown dtype counts as bf16."""
    return params * WEIGHT_BYTES.get(dtype.removeprefix("torch."), ADAPTER_WEIGHT)
