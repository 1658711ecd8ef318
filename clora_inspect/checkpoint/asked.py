"""Compute which tensors a job asks a checkpoint for, from megatron-core's own sharded state.

One rank of each pipeline stage is built on the meta device. A sharded tensor knows its shape over
all ranks, so the other ranks of a stage ask for nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import CheckpointError, CloraError, one_line
from clora.folders.adapter_scales import ScaledAdapter
from clora_inspect.job.cluster import stages
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from clora.sharding.saved_names import SavedAdapters
    from clora_inspect.job.job import Job
    from clora_inspect.sources.definition import ModelDefinition


class AskedTensor(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of the whole model."""

    shape: tuple[int, ...]
    may_differ: bool = False
    """True if megatron-core loads it from another shape: an embedding, of which it takes the rows
    that both have.
    """
    shape_in_bridge: tuple[int, ...] | None = None
    """The shape in which Megatron-Bridge may save it, and clora reads it."""


class Asked(msgspec.Struct, frozen=True):
    """Entries that a job asks a checkpoint for."""

    base: dict[str, AskedTensor]
    """Key -> tensor of the base model."""
    adapters: dict[str, AskedTensor] = {}
    """Key -> factor of an adapter."""
    scales: tuple[ScaledAdapter, ...] = ()


def asked_by(job: Job, definition: ModelDefinition, *, adapters: SavedAdapters | None, per_layer: bool) -> Asked:
    """Return what `job` asks for.

    Args:
        job: with the layout that it is built in.
        definition: its model.
        adapters: the adapters in the checkpoint, which may be saved from another class of model or
            release of megatron-core; None to ask for the base alone.
        per_layer: True to ask for a tensor of each layer; False for what megatron-core asks for by
            default, one tensor of all layers where they are alike.

    Raises:
        CheckpointError: megatron-core cannot describe the shards of this model.
        CloraError: the model cannot be built or planned.
    """
    base: dict[str, AskedTensor] = {}
    factors: dict[str, AskedTensor] = {}
    scales: dict[str, ScaledAdapter] = {}
    with quiet():
        # torch and megatron-core are imported inside `quiet`: both print when they are imported.
        from clora_inspect.sources.build import build_chunks
        from clora_inspect.virtual import megatron_on, virtual_cluster

        with megatron_on("meta"):
            for stage in stages(job.layout):
                with virtual_cluster(job.layout, stage.representative):
                    asked = _asked_on_rank(job, build_chunks(definition, job.layout), adapters, per_layer)
                base |= asked.base
                factors |= asked.adapters
                scales |= {adapter.indexed: adapter for adapter in asked.scales}
    return Asked(base, factors, tuple(scales.values()))


def tensors_in(state: Mapping[str, Any]) -> dict[str, AskedTensor]:
    """Return the tensors that the entries of a sharded state are shards of, by key. Call it where
    the state was made: megatron-core's classes differ between worlds.
    """
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    # `apply_factories` changes the mapping that it gets.
    built = dict(state)
    apply_factories(built)
    return {
        each.key: AskedTensor(tuple(each.global_shape), each.allow_shape_mismatch)
        for each in nested_values(built)
        if isinstance(each, ShardedTensor)
    }


def _asked_on_rank(job: Job, chunks: list[nn.Module], adapters: SavedAdapters | None, per_layer: bool) -> Asked:
    from clora import surgery
    from clora.adapter_checkpoint import (
        adapter_sharded_state,
        base_sharded_state,
        scaled_adapters,
        wanted_tensors,
    )
    from clora.linears import unwrap

    # A function may return its model inside DistributedDataParallel, to which surgery adds nothing.
    # Keys are those of the model inside.
    chunks = [unwrap(chunk) for chunk in chunks]
    plan = job.lora.plan(chunks)
    try:
        base = tensors_in(base_sharded_state(chunks, per_layer=per_layer))
        # A stage may have no adapters, and surgery refuses to add none.
        if not (adapters and plan.placements):
            return Asked(base)
        # Switches that only training must not have do not matter here.
        surgery.apply(plan, chunks, job.lora, training=False)
        state = _as_saved(adapter_sharded_state(chunks, per_layer=per_layer), chunks, adapters)
        factors = {
            key: AskedTensor(want.shape, shape_in_bridge=want.shape_with_experts)
            for key, want in wanted_tensors(chunks, state).items()
        }
        return Asked(base, factors, tuple(_distinct(scaled_adapters(chunks, state))))
    except (CloraError, BuildError):
        raise
    except Exception as error:  # a module of the user may raise anything
        raise CheckpointError(
            f"{job.model} does not say how it is saved: its sharded_state_dict raises {type(error).__name__} "
            f"({one_line(error)[:200]})."
        ) from error


def _as_saved(state: dict[str, Any], chunks: list[nn.Module], adapters: SavedAdapters) -> dict[str, Any]:
    """Return the entries of `state` under the names that they have in the checkpoint."""
    from clora.linears import layer_pattern
    from clora.sharding.saved_names import as_saved

    try:
        return as_saved(state, layer_pattern(chunks[0]), adapters)
    except CheckpointError:
        # They are of other layers: the comparison says which tensors are not there.
        return state


def _distinct(adapters: Iterable[ScaledAdapter]) -> Iterable[ScaledAdapter]:
    """Leave out layers and experts that are scaled as the first one of their key."""
    first: dict[str, ScaledAdapter] = {}
    for adapter in adapters:
        if first.setdefault(adapter.key, adapter).scale != adapter.scale or first[adapter.key] is adapter:
            yield adapter
