"""Build and adapt every rank of a job on the meta device, and note what is really there: the
numbers and shapes of parameters, and which part of which tensor each rank saves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from clora_inspect.job.cluster import stages
from clora_inspect.job.layout import Layout
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.canonical_lora import CanonicalLoRA
    from clora.plan import Plan
    from clora_inspect.sources.definition import ModelDefinition

Site = tuple[int, str, str | None]
"""Chunk, path of the module in its chunk, canonical part."""

# `decoder.layers.0.self_attention.linear_qkv.adapter.adapter_q.linear_in.weight`
_FACTOR = re.compile(r"(.+)\.adapter\.(?:adapter_(\w+)\.)?linear_(in|out)\.weight")


@dataclass(frozen=True)
class Shard:
    """One rank's part of a tensor of the whole model."""

    key: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: tuple[int, ...]
    size: tuple[int, ...]
    is_copy: bool
    """True if another rank writes the same part into a checkpoint."""

    @property
    def numel(self) -> int:
        return prod(self.size)


@dataclass(frozen=True)
class AdaptedRank:
    """One rank, planned and then adapted."""

    stage: int
    plan: Plan
    base_params: int
    """Elements of the base's parameters before surgery, each tensor once."""
    base_params_after: int
    trainable_params: int
    adapters: dict[Site, dict[str, tuple[int, ...]]]
    """Where the model has an adapter -> shapes of its `in` (A) and `out` (B)."""
    inputs: dict[tuple[int, str], int]
    """Chunk and path of a module -> input width of its weight. A tied module has no weight."""
    shards: list[Shard]


def adapted_ranks(definition: ModelDefinition, lora: CanonicalLoRA, layout: Layout) -> list[AdaptedRank]:
    """Return every rank of the smallest world of `layout`, whose etp is set."""
    with quiet(), collector_paused():
        from clora_inspect.virtual import virtual_megatron

        with virtual_megatron("meta"):
            width = layout.model_world // layout.pp
            return [
                _adapted(definition, lora, layout, stage.pp, stage.representative + number)
                for stage in stages(layout)
                for number in range(width)
            ]


def on_one_rank(definition: ModelDefinition, lora: CanonicalLoRA | None) -> tuple[int, Plan | None]:
    """Return the elements of the whole model, each parameter once, and its plan on one rank; None
    without a LoRA.
    """
    with quiet(), collector_paused():
        from clora_inspect.sources.build import build_chunks
        from clora_inspect.virtual import virtual_cluster, virtual_megatron

        whole = definition.without_split()
        whole.check(Layout())
        with virtual_megatron("meta"), virtual_cluster(Layout()):
            chunks = build_chunks(whole, Layout(etp=1))
            return _numel(chunks), lora.plan(chunks) if lora else None


def _adapted(definition: ModelDefinition, lora: CanonicalLoRA, layout: Layout, stage: int, rank: int) -> AdaptedRank:
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.virtual import virtual_cluster

    with virtual_cluster(layout, rank):
        chunks = build_chunks(definition, layout)
        before, plan = _numel(chunks), lora.plan(chunks)
        if plan.placements:
            lora(chunks)
        return AdaptedRank(
            stage=stage,
            plan=plan,
            base_params=before,
            base_params_after=_numel(chunks, adapters=False),
            trainable_params=_numel(chunks, trainable=True) if plan.placements else 0,
            adapters=_adapters(chunks),
            inputs=_inputs(chunks),
            shards=list(_shards(chunks)) if plan.placements else [],
        )


def _numel(chunks: list[Any], *, adapters: bool = True, trainable: bool = False) -> int:
    found = {
        id(parameter): parameter.numel()
        for chunk in chunks
        for name, parameter in chunk.named_parameters()
        if (adapters or ".adapter." not in name) and (parameter.requires_grad or not trainable)
    }
    return sum(found.values())


def _adapters(chunks: list[Any]) -> dict[Site, dict[str, tuple[int, ...]]]:
    found: dict[Site, dict[str, tuple[int, ...]]] = {}
    for number, chunk in enumerate(chunks):
        for name, parameter in chunk.named_parameters():
            if ".adapter." in name:
                module, part, factor = re.fullmatch(_FACTOR, name).groups()  # type: ignore[union-attr]
                found.setdefault((number, module, part), {})[factor] = tuple(parameter.shape)
    return found


def _inputs(chunks: list[Any]) -> dict[tuple[int, str], int]:
    # Grouped experts have a weight for each: `weight0`, `weight1`.
    return {
        (number, name.rpartition(".")[0]): parameter.shape[-1]
        for number, chunk in enumerate(chunks)
        for name, parameter in chunk.named_parameters()
        if name.rpartition(".")[2] in ("weight", "weight0")
    }


def _shards(chunks: list[Any]) -> Iterator[Shard]:
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory, is_main_replica

    from clora.adapter_checkpoint import adapter_sharded_state

    for entry in adapter_sharded_state(chunks).values():
        for piece in entry.build() if isinstance(entry, ShardedTensorFactory) else [entry]:
            prepended = (1,) * piece.prepend_axis_num
            yield Shard(
                key=piece.key,
                shape=tuple(piece.global_shape),
                start=tuple(piece.global_offset),
                size=(*prepended, *piece.local_shape),
                is_copy=not is_main_replica(piece.replica_id),
            )
