"""Describe the shards of adapted modules for megatron-core's distributed checkpoints.

The base's tensors are described as without adapters. Each factor is an ordinary shard of a tensor
of its own, so any layout can load it. The rows of an adapter of q, k, v, gate or up were never
packed with others and are saved in their plain order. (Megatron-Bridge treats those of gate and up
as if they were packed, and they come back in another order when the tensor-parallel size changes.)
A linear that is adapted as a whole and packs several sections by rank is saved section by section.

megatron-core stacks equal layers of a model, and the experts of a layer, into one tensor per name.
When a target names layers by number, the other layers have no such adapter and the stack would have
holes, which megatron-core refuses. Then the number goes to the end of the key, and the adapter of
each layer is a tensor of its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from inspect import unwrap
from typing import TYPE_CHECKING, Any

import torch

from clora import linears
from clora.adapters import Factor
from clora.errors import CheckpointError
from clora.linears import ParallelKind
from clora.megatron_releases import supported_series

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.plan import Placement

Offsets = tuple[tuple[int, int, int], ...]
"""(axis, index, size) of every axis that megatron-core puts before the dims of a tensor itself: the
layer, the expert.
"""


def adapted_sharded_state_dict(
    module: Any, prefix: str, sharded_offsets: Offsets, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the sharded tensors of an adapted module, those of its base and of its adapters.

    Args:
        module: a `clora.wrappers.Adapted`.
        prefix: path of the module and a dot.
        sharded_offsets: the axes that megatron-core puts before those of a tensor.
        metadata: megatron-core's options for the checkpoint.
    """
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

    metadata = ensure_metadata_has_dp_cp_group(metadata)
    adapter_prefix = f"{prefix}adapter."
    base = _base_sharded_state_dict(module, prefix, sharded_offsets, metadata)
    # The base's own method may walk its children, and so find the adapter.
    own = {key: value for key, value in base.items() if not key.startswith(adapter_prefix)}
    for part, adapter in module.adapters.items():
        placement = next(placement for placement in module.placements if placement.part == part)
        stem = f"{adapter_prefix}adapter_{part}." if part else adapter_prefix
        own |= _sharded_factors(adapter, stem, sharded_offsets, metadata, placement)
    return own


def adapter_sharded_state_dict(
    adapter: nn.Module, prefix: str, sharded_offsets: Offsets, metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the sharded tensors of all factors in `adapter`, a `clora.wrappers.ModuleDict`."""
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

    return _sharded_factors(adapter, prefix, sharded_offsets, ensure_metadata_has_dp_cp_group(metadata), None)


def _base_sharded_state_dict(
    module: Any, prefix: str, sharded_offsets: Offsets, metadata: dict[str, Any]
) -> dict[str, Any]:
    # The base class is asked, because the method of the module itself is the one that called this.
    if linears.has_sharded_state(module.base_class):
        sharded: dict[str, Any] = module.base_class.sharded_state_dict(module, prefix, sharded_offsets, metadata)
        return sharded
    from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

    # A torch linear is on every rank as a whole. Names with a dot are its adapter's.
    tensors = {name: value for name, value in module.state_dict(keep_vars=True).items() if "." not in name}
    made: dict[str, Any] = make_sharded_tensors_for_checkpoint(
        tensors, prefix, {}, sharded_offsets, tp_group=None, dp_cp_group=metadata["dp_cp_group"]
    )
    return made


def _sharded_factors(
    adapter: nn.Module, prefix: str, offsets: Offsets, metadata: dict[str, Any], placement: Placement | None
) -> dict[str, Any]:
    # With numbers in the targets other layers may lack this tensor, so no stack can hold it.
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
    """Return one factor as a `ShardedTensor`, or as a `ShardedTensorFactory` for several sections.

    A B with sections is one shard per section on every rank. Gate and up are equally large, and
    lie one behind the other in one tensor, as megatron-core describes the weight of a gated
    `linear_fc1` (`apply_swiglu_sharded_factory`). Other sections are tensors of their own, named as
    in megatron-core's checkpoints of Mamba layers and gated delta nets.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    wiring, num_prepended = factor.wiring, len(offsets)
    expert_offset = (
        [(num_prepended + factor.axes.index("ep"), wiring.ep_rank, wiring.ep_size)] if "ep" in factor.axes else []
    )

    def sharded(key: str, tensor: torch.Tensor, replica: Any, index: int, fragments: int) -> Any:
        own = [] if factor.split_dim is None else [(num_prepended + factor.split_dim, index, fragments)]
        return ShardedTensor.from_rank_offsets(
            key, tensor, *offsets, *expert_offset, *own, replica_id=replica, prepend_axis_num=num_prepended
        )

    replica = _replica(factor, metadata)
    dim = factor.split_dim
    count = len(factor.sections)
    one_tensor = len({rows for _, rows in factor.sections}) == 1
    if not count or dim is None or (one_tensor and wiring.size == 1):
        return sharded(key, factor.weight, replica, wiring.rank, wiring.size)

    def build_sections(key: str, tensor: torch.Tensor, replica: Any, _flattened: object) -> list[Any]:
        pieces = torch.split(tensor, [rows // wiring.size for _, rows in factor.sections], dim)
        if not one_tensor:
            return [
                sharded(f"{key}.{name}", piece, replica, wiring.rank, wiring.size)
                for (name, _), piece in zip(factor.sections, pieces, strict=True)
            ]
        return [
            sharded(key, piece, replica, wiring.rank + number * wiring.size, count * wiring.size)
            for number, piece in enumerate(pieces)
        ]

    def merge_sections(pieces: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(pieces, dim)

    return ShardedTensorFactory(key, factor.weight, build_sections, merge_sections, replica)


def is_first_copy(factor: Factor) -> bool:
    """Return whether this rank is the data-parallel (and, for a pair that all experts share, the
    expert-parallel) copy of the factor that writes its shard.
    """
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group

    over_ep, _, over_dp = _replica(factor, ensure_metadata_has_dp_cp_group(None))
    return over_ep == over_dp == 0


def _replica(factor: Factor, metadata: dict[str, Any]) -> tuple[int, int, int]:
    """Return which copy of the shard this rank holds. The rank with (0, 0, 0) writes it."""
    from megatron.core import parallel_state

    wiring = factor.wiring
    copy_over_tp = wiring.rank if factor.split_dim is None else 0
    if wiring.kind is ParallelKind.PLAIN:
        # It knows no tensor parallelism, and each rank has a copy of it all the same.
        copy_over_tp = parallel_state.get_tensor_model_parallel_rank()
    if factor.experts is None:
        return 0, copy_over_tp, metadata["dp_cp_group"].rank()

    copy_over_ep = wiring.ep_rank if factor.is_shared_by_experts else 0
    return copy_over_ep, copy_over_tp, parallel_state.get_expert_data_parallel_rank()


@contextmanager
def tensors_only() -> Iterator[None]:
    """Let `megatron.core.dist_checkpointing.load` open no file but the tensors', on any release.

    A checkpoint also holds the run's arguments as pickles: in `common.pt`, and from 0.19 among the
    data, where torch opens them without a guard.

    Raises:
        CheckpointError: it is not known how this release loads them.
    """
    from megatron.core.dist_checkpointing import serialization
    from megatron.core.dist_checkpointing.strategies import common

    def nothing(*_args: object) -> dict[str, Any]:
        return {}

    # Up to 0.16 a class loads them, and later one of these functions, which `load` calls.
    owner: Any = vars(common).get("TorchCommonLoadStrategy", serialization)
    called = set(unwrap(serialization.load).__code__.co_names) & {"load_common", "load_common_state_dict"}
    known = {name: vars(owner)[name] for name in called if name in vars(owner)}
    if not known:
        raise CheckpointError(
            "How this release of megatron-core loads what is no tensor is not known, and a checkpoint could run code "
            f"there. Use a release that is supported ({supported_series()})."
        )
    try:
        for name in known:
            setattr(owner, name, nothing)
        yield
    finally:
        for name, function in known.items():
            setattr(owner, name, function)
