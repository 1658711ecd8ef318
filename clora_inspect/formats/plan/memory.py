"""Bytes that one rank spends on weights, gradients and optimizer states. The assumptions are
printed with the figures. Pure numbers.
"""

from __future__ import annotations

WEIGHT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of one parameter of the base model, by its dtype."""

ADAPTER_WEIGHT = 2
"""An adapter's parameter in bf16."""
GRADIENT = 4
"""Gradients are accumulated in fp32."""
ADAM_STATES = 12
"""The fp32 master weight and two fp32 moments: Adam in mixed precision, not split over the
data-parallel axis.
"""

ASSUMED = (
    f"assumed: adapter weights bf16 ({ADAPTER_WEIGHT} B), gradients fp32 ({GRADIENT} B), "
    f"Adam fp32 master weight and two moments ({ADAM_STATES} B), not split over data parallelism; activations are not counted"
)


def weight_bytes(params: int, dtype: str) -> int:
    """Bytes of `params` frozen parameters of the base model; what is neither fp16, bf16 nor fp32 is
    taken for bf16.
    """
    return params * WEIGHT_BYTES.get(dtype.removeprefix("torch."), ADAPTER_WEIGHT)
