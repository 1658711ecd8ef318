"""This rank's place on the axes of the mesh, from megatron-core's own process groups."""

from __future__ import annotations

from typing import Any


def group_of(axis: str | None) -> Any:
    """Return megatron-core's process group of a mesh axis ("tp", "etp", "ep"); None for no axis."""
    from megatron.core import parallel_state as mpu

    groups = {
        "tp": mpu.get_tensor_model_parallel_group,
        "etp": mpu.get_expert_tensor_parallel_group,
        "ep": mpu.get_expert_model_parallel_group,
    }
    return groups[axis]() if axis is not None else None


def place_on(axis: str | None) -> tuple[int, int]:
    """Return this rank's number on an axis and the number of ranks on it; (0, 1) for no axis."""
    group = group_of(axis)
    return (0, 1) if group is None else (group.rank(), group.size())
