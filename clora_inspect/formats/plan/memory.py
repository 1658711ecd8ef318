"""Say what one rank spends on adapters, and what the figures assume."""

from __future__ import annotations

from clora_inspect.formats.quantities import size
from clora_inspect.job.memory import ADAM_STATES, ADAPTER_WEIGHT, GRADIENT

_ASSUMED = (
    f"assumed: adapter weights bf16 ({ADAPTER_WEIGHT} B), gradients fp32 ({GRADIENT} B), "
    f"Adam fp32 master weight and two moments ({ADAM_STATES} B), not split over data parallelism"
)
WITHOUT_PEAK = f"{_ASSUMED}; activations are not counted"
WITH_PEAK = f"{_ASSUMED}; the peak has activations too, and the optimizer states as they are split"


def adapter_cost(params: int) -> str:
    """Describe the memory that one rank spends on `params` adapter parameters."""
    return (
        f"{size(params * ADAPTER_WEIGHT)} weights, {size(params * GRADIENT)} gradients, "
        f"{size(params * ADAM_STATES)} Adam states"
    )
