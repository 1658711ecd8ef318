"""Describe shards of adapters in the forms of Megatron-Bridge, for megatron-core's checkpoints.

A shard of clora's own form (`clora.sharding.checkpoint`) is taken apart and described anew, so that
keys, layers and replicas stay those of clora.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from clora.bridge_checkpoint.forms import Wanted, plain_key
from clora.errors import CheckpointError
from clora.linears import ParallelKind
from clora.sharding.full_tensor import local_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from clora.adapters import Factor
    from clora.bridge_checkpoint.forms import Release, SavedForm


@dataclass(frozen=True, slots=True)
class Reading:
    """The tensors to load for one factor, and how its weight is made of them."""

    shards: list[Any]
    """megatron-core's `ShardedTensor`s, with memory of their own."""
    weight: Callable[[list[torch.Tensor]], torch.Tensor]
    """Makes this rank's weight of the loaded shards. Raises `CheckpointError`."""


@dataclass(frozen=True, slots=True)
class _Shard:
    """The facts of one factor in a checkpoint of clora's own form."""

    key: str
    factor: Factor
    offsets: tuple[tuple[int, int, int], ...]
    """(axis, index, size) of each axis in front of the matrix: the layer, a sequential expert."""
    replica: tuple[int, int, int]

    @property
    def split(self) -> tuple[tuple[int, int, int], ...]:
        """(axis, index, pieces) of the dim that tensor parallelism splits, if it splits one."""
        dim, wiring = self.factor.split_dim, self.factor.wiring
        return () if dim is None else ((len(self.offsets) + dim, wiring.rank, wiring.size),)

    def made(
        self, key: str, data: torch.Tensor, own: Iterable[tuple[int, int, int]], expert: tuple[int, int] | None = None
    ) -> Any:
        """Return a shard of the tensor `key`.

        Args:
            key: the key.
            data: the shard.
            own: (axis, index, pieces) of the dims that are split; axes count without the experts'.
            expert: number of the expert and of all experts, for an axis of experts.
        """
        from megatron.core.dist_checkpointing.mapping import ShardedTensor

        count = len(self.offsets)
        if expert is None:
            return ShardedTensor.from_rank_offsets(
                key, data, *self.offsets, *own, replica_id=self.replica, prepend_axis_num=count
            )
        return ShardedTensor.from_rank_offsets(
            key,
            data,
            *self.offsets,
            (count, *expert),
            *((axis + 1, index, pieces) for axis, index, pieces in own),
            # Each expert-parallel rank has experts of its own here.
            replica_id=(0, *self.replica[1:]),
            prepend_axis_num=count + 1,
        )


def wanted(own: Any, factor: Factor) -> Iterator[tuple[str, Wanted]]:
    """Yield key and facts of the tensors that `own`, one entry of clora's sharded state, is of."""
    for piece in _pieces(own):
        yield (
            piece.key,
            Wanted(
                shape=tuple(piece.global_shape),
                prepended=piece.prepend_axis_num,
                num_experts=factor.experts.num_experts if factor.experts and factor.is_shared_by_experts else 0,
                is_plain=factor.wiring.kind is ParallelKind.PLAIN,
                may_be_halved=_is_of_fc1(piece.key) and not factor.sections,
            ),
        )


def reading(own: Any, factor: Factor, form: SavedForm) -> Reading:
    """Return how to read a factor that is saved in a form of Megatron-Bridge.

    Args:
        own: its entry of clora's sharded state.
        factor: the factor.
        form: how the checkpoint holds it.

    Raises:
        CheckpointError: no release is known to write that form.
    """
    shard = _facts_of(own, factor)
    if form.halved_by and (form.has_expert_axis or factor.weight.dim() > 2):
        raise CheckpointError(
            f"{form.key} is saved in twice as many pieces of rows as there are ranks, and with an axis of experts. No "
            "known release of Megatron-Bridge writes both, so the order of its rows is not known."
        )
    if form.has_expert_axis:
        return _reading_of_experts(shard, form.key)
    if not form.halved_by:
        renamed = shard.made(form.key, torch.empty_like(factor.weight), shard.split)
        return Reading([renamed], lambda loaded: loaded[0])
    # Every rank reads all rows, because its own lie in several places.
    rows = factor.weight.new_empty(factor.global_shape)
    return Reading(
        [shard.made(form.key, rows, ())],
        lambda loaded: local_shard(factor, in_order(loaded[0], form.halved_by)),
    )


def written(own: Any, factor: Factor, release: Release) -> Any:
    """Return a factor's entry of the sharded state as `release` writes it on this layout.

    Args:
        own: its entry of clora's sharded state.
        factor: the factor.
        release: the release that will read it.

    Raises:
        CheckpointError: that release cannot hold such an adapter.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    shard = _facts_of(own, factor)
    _refuse_unwritable(shard, release)
    # The adapters of gate and up are called after their part; another one is of an MLP without a
    # gate, whose rows newer releases leave alone.
    halved = _is_of_fc1(shard.key) and not factor.sections and (release.halves_all or ".adapter.adapter_" in shard.key)

    def halves(key: str, tensor: torch.Tensor, _replica: object, _flattened: object) -> list[Any]:
        ((axis, rank, ranks),) = shard.split
        return [
            shard.made(key, half, [(axis, rank + number * ranks, 2 * ranks)])
            for number, half in enumerate(tensor.chunk(2, dim=-2))
        ]

    def experts(key: str, tensor: torch.Tensor, _replica: object, _flattened: object) -> list[Any]:
        return [piece for expert in _local_experts(factor) for piece in _of_expert(shard, key, tensor, expert)]

    def never_loaded(pieces: list[torch.Tensor]) -> torch.Tensor:
        return pieces[0]

    if release.has_expert_axis and factor.is_shared_by_experts:
        return ShardedTensorFactory(shard.key, factor.weight, experts, never_loaded, shard.replica)
    if halved:
        return ShardedTensorFactory(shard.key, factor.weight, halves, never_loaded, shard.replica)
    if release.has_plain_keys and factor.wiring.kind is ParallelKind.PLAIN:
        return shard.made(plain_key(shard.key), factor.weight, shard.split)
    return own


def extra_state(own: Any, factor: Factor) -> dict[str, Any]:
    """Return what Megatron-Bridge saves beside a factor, under the end of its name.

    There a factor is one of megatron-core's linears, which have an `_extra_state` without content
    and ask for it when they load.
    """
    if factor.wiring.kind is ParallelKind.PLAIN or factor.weight.dim() > 2:
        return {}
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    shard = _facts_of(own, factor)
    key = f"{shard.key.removesuffix('.weight')}._extra_state"
    sizes, places = tuple(size for _, _, size in shard.offsets), tuple(index for _, index, _ in shard.offsets)
    copy, _, data_parallel = shard.replica
    return {
        "_extra_state": ShardedObject(
            key, None, sizes or (1,), places or (0,), (copy, factor.wiring.rank, data_parallel)
        )
    }


def _refuse_unwritable(shard: _Shard, release: Release) -> None:
    factor = shard.factor
    if not shard.key.endswith(".weight"):
        raise CheckpointError(
            f"{shard.key} is an adapter of one layer, because a target names layers by number, and {release.name} "
            "cannot load such a one: it expects the adapters of all layers in one tensor."
        )
    if release.splits_experts and factor.is_shared_by_experts and ".experts.linear_fc1." in shard.key:
        raise CheckpointError(
            f"{release.name} adapts gate and up of routed experts one by one, and {shard.key} is an adapter of both: "
            "it cannot load it. Write for release 0.4 or newer, or train without the experts' linear_fc1."
        )
    if len({rows for _, rows in factor.sections}) > 1 and ".mixer." not in shard.key:
        raise CheckpointError(
            f"{release.name} saves {shard.key} as each rank packs it, in no order that another layout could read. "
            "Leave in_proj out, or export to Hugging Face's form."
        )


def _reading_of_experts(shard: _Shard, key: str) -> Reading:
    factor = shard.factor
    local = _local_experts(factor)
    # Expert 0 on every rank: when all are equal to it, those of different ranks are equal too.
    read = [*local, *([] if 0 in local else [0])]
    pieces = [list(_of_expert(shard, key, torch.empty_like(factor.weight), expert)) for expert in read]
    sizes = [len(each) for each in pieces]

    def weight(loaded: list[torch.Tensor]) -> torch.Tensor:
        rest = iter(loaded)
        slices = [torch.cat([next(rest) for _ in range(size)], dim=-2) for size in sizes]
        other = next((expert for expert, each in zip(read, slices, strict=True) if not each.equal(slices[-1])), None)
        if other is not None:
            raise CheckpointError(
                f"{key} holds other values for expert {other} than for expert {read[-1]}, and the experts of this "
                "model share one adapter. It was trained with share_expert_adapters=False: adapt the model with that."
            )
        return slices[-1]

    return Reading([piece for each in pieces for piece in each], weight)


def _of_expert(shard: _Shard, key: str, tensor: torch.Tensor, expert: int) -> Iterator[Any]:
    """Yield the shards of the one expert `expert`: two, when the ranks share gate and up."""
    of_all = (expert, shard.factor.experts.num_experts if shard.factor.experts else 1)
    sections = len(shard.factor.sections)
    if not sections or shard.factor.wiring.size == 1:
        yield shard.made(key, tensor, shard.split, of_all)
        return
    ((axis, rank, ranks),) = shard.split
    for number, section in enumerate(tensor.chunk(sections, dim=-2)):
        yield shard.made(key, section.contiguous(), [(axis, rank + number * ranks, sections * ranks)], of_all)


def _local_experts(factor: Factor) -> range:
    count = factor.experts.num_local_experts if factor.experts else 1
    return range(factor.wiring.ep_rank * count, (factor.wiring.ep_rank + 1) * count)


def in_order(rows: torch.Tensor, ranks: int) -> torch.Tensor:
    """Return the rows `[out, rank]` of `ranks` ranks, saved as two halves of each, in order."""
    pieces = rows.reshape(2, ranks, -1, rows.shape[-1])
    return pieces.transpose(0, 1).flatten(0, 2)


def _is_of_fc1(key: str) -> bool:
    return ".linear_fc1." in key and ".linear_out.weight" in key


def _facts_of(own: Any, factor: Factor) -> _Shard:
    piece = next(iter(_pieces(own)))
    count = piece.prepend_axis_num
    offsets = tuple((axis, piece.global_offset[axis], piece.global_shape[axis]) for axis in range(count))
    return _Shard(own.key, factor, offsets, piece.replica_id)


def _pieces(own: Any) -> list[Any]:
    """Return megatron-core's shards of one entry of a sharded state."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    # A B of several sections is a factory of one shard for each.
    return own.build() if isinstance(own, ShardedTensorFactory) else [own]
