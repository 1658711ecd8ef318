"""megatron-core's distributed checkpoints of adapted modules: the base's tensors as without
adapters, and each factor an ordinary shard.

An adapter of one canonical part is a tensor of its own, whose rows were never packed: it is saved
as what it is, so that any layout can load it. (Megatron-Bridge treats those of up and gate as if
they were fused, and their rows come back in another order when the tensor-parallel size changes.)

megatron-core stacks equal layers of a model (and the experts of a layer) into one tensor per name.
Where a target names layers by number, the others have no such adapter and the stack would have
holes, which megatron-core refuses; then the number becomes the end of the key, and every layer's
adapter is a tensor of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clora.adapters import Factor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.plan import Placement

Offsets = tuple[tuple[int, int, int], ...]
"""(axis, index on it, size of it) of every axis that megatron-core puts before a tensor's own: the
layer, the expert.
"""


def adapted_sharded_state_dict(
    module: Any, prefix: str, sharded_offsets: Offsets, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Sharded tensors of an adapted module (`clora.wrappers.Adapted`): its base's and its
    adapters'.
    """
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

    metadata = ensure_metadata_has_dp_cp_group(metadata)
    adapter_prefix = f"{prefix}adapter."
    base = _base_sharded_state_dict(module, prefix, sharded_offsets, metadata)
    own = {key: value for key, value in base.items() if not key.startswith(adapter_prefix)}
    for part, adapter in module.adapters.items():
        placement = next(placement for placement in module.placements if placement.part == part)
        stem = f"{adapter_prefix}adapter_{part}." if part else adapter_prefix
        own |= _sharded_factors(adapter, stem, sharded_offsets, metadata, placement)
    return own


def adapter_sharded_state_dict(
    adapter: nn.Module, prefix: str, sharded_offsets: Offsets, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Sharded tensors of all factors in `adapter`, for whoever asks a `ModuleDict` for its own."""
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

    return _sharded_factors(adapter, prefix, sharded_offsets, ensure_metadata_has_dp_cp_group(metadata), None)


def _base_sharded_state_dict(
    module: Any, prefix: str, sharded_offsets: Offsets, metadata: dict[str, Any]
) -> dict[str, Any]:
    if hasattr(module.base_class, "sharded_state_dict"):
        sharded: dict[str, Any] = module.base_class.sharded_state_dict(module, prefix, sharded_offsets, metadata)
        return sharded
    from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

    # A plain torch linear: every rank has all of it.
    tensors = {name: value for name, value in module.state_dict(keep_vars=True).items() if "." not in name}
    made: dict[str, Any] = make_sharded_tensors_for_checkpoint(
        tensors, prefix, {}, sharded_offsets, tp_group=None, dp_cp_group=metadata["dp_cp_group"]
    )
    return made


def _sharded_factors(
    adapter: nn.Module, prefix: str, offsets: Offsets, metadata: dict[str, Any], placement: Placement | None
) -> dict[str, Any]:
    suffix = ""
    if placement is not None and placement.by_number:
        suffix, offsets = "".join(f".{index}" for _, index, _ in offsets), ()
    return {
        f"{prefix}{name}.weight": _sharded_factor(factor, f"{prefix}{name}.weight{suffix}", offsets, metadata)
        for name, factor in _factors(adapter)
    }


def _factors(adapter: nn.Module) -> Iterator[tuple[str, Factor]]:
    return ((name, module) for name, module in adapter.named_modules() if isinstance(module, Factor))


def _sharded_factor(factor: Factor, key: str, offsets: Offsets, metadata: dict[str, Any]) -> Any:
    """One factor as a `ShardedTensor`: split over tp or etp where it is, over ep where every expert
    has its own.

    A B of gate and up together is two tensors on every rank, as such a base's weight is: this
    rank's gate rows lie among all gate rows and its up rows among all up rows.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    wiring, before = factor.wiring, len(offsets)
    of_experts = [(before + factor.axes.index("ep"), wiring.ep_rank, wiring.ep_size)] if "ep" in factor.axes else []

    def sharded(key: str, tensor: torch.Tensor, replica: Any, index: int, fragments: int) -> Any:
        own = [] if factor.split_dim is None else [(before + factor.split_dim, index, fragments)]
        return ShardedTensor.from_rank_offsets(
            key, tensor, *offsets, *of_experts, *own, replica_id=replica, prepend_axis_num=before
        )

    replica = _replica(factor, metadata)
    dim = factor.split_dim
    if not factor.is_gate_and_up or dim is None or wiring.size == 1:
        return sharded(key, factor.weight, replica, wiring.rank, wiring.size)

    def built(key: str, tensor: torch.Tensor, replica: Any, _flattened: object) -> list[Any]:
        gate, up = tensor.chunk(2, dim)
        indices = (wiring.rank, wiring.rank + wiring.size)
        return [
            sharded(key, half, replica, index, 2 * wiring.size) for half, index in zip((gate, up), indices, strict=True)
        ]

    def merged(halves: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(halves, dim)

    return ShardedTensorFactory(key, factor.weight, built, merged, replica)


def _replica(factor: Factor, metadata: dict[str, Any]) -> tuple[int, int, int]:
    """Which copy of its shard this rank holds; exactly one rank has (0, 0, 0)."""
    wiring = factor.wiring
    beside = wiring.rank if factor.split_dim is None else 0
    if factor.experts is None:
        return 0, beside, metadata["dp_cp_group"].rank()
    from megatron.core import parallel_state

    copies = wiring.ep_rank if factor.is_shared_by_experts else 0
    return copies, beside, parallel_state.get_expert_data_parallel_rank()
