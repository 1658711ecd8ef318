"""megatron-core's distributed checkpoints of adapted modules: the base's tensors as without adapters, and each factor an ordinary shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.adapters import Factor

if TYPE_CHECKING:
    from torch import nn


def adapted_sharded_state_dict(
    module: Any, prefix: str, sharded_offsets: tuple[Any, ...], metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Sharded tensors of an adapted module (`clora.wrappers.Adapted`): its base's and its adapters'."""
    base = module.base_class.sharded_state_dict(module, prefix, sharded_offsets, metadata)
    adapter_prefix = f"{prefix}adapter."
    own = {key: value for key, value in base.items() if not key.startswith(adapter_prefix)}
    return own | adapter_sharded_state_dict(module.adapter, adapter_prefix, sharded_offsets, metadata)


def adapter_sharded_state_dict(
    adapter: nn.Module, prefix: str, sharded_offsets: tuple[Any, ...], metadata: dict[str, Any] | None
) -> dict[str, Any]:
    """Sharded tensors of all factors in `adapter`."""
    from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group, make_sharded_tensors_for_checkpoint

    metadata = ensure_metadata_has_dp_cp_group(metadata)
    sharded: dict[str, Any] = {}
    for name, factor in adapter.named_modules():
        if isinstance(factor, Factor):
            sharded |= make_sharded_tensors_for_checkpoint(
                {"weight": factor.weight},
                f"{prefix}{name}.",
                {} if factor.split_dim is None else {"weight": factor.split_dim},
                sharded_offsets,
                tp_group=factor.wiring.group,
                dp_cp_group=metadata["dp_cp_group"],
            )
    return sharded
