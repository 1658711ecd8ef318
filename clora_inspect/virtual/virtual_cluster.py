"""Play one rank of a cluster of any size in this one process."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from clora.errors import LayoutError
from clora_inspect.virtual.attributes import replaced
from clora_inspect.virtual.model_parallel import SEED, model_parallel
from clora_inspect.virtual.world import WorldError, current_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.job.layout import Layout


@contextmanager
def virtual_cluster(layout: Layout, rank: int = 0, *, seed: int = SEED) -> Iterator[None]:
    """Be rank `rank` of the smallest cluster that shows `layout` (`layout.model_world` ranks);
    nobody else is there.

    torch.distributed runs its fake backend, in which every collective returns at once, and
    megatron-core's `parallel_state` is initialised as a training script does it. Only the groups
    that hold this rank are made: the others change nothing here, and making them all is what costs
    seconds in a wide world.

    Args:
        layout: sizes of the mesh axes.
        rank: the global rank to play, below `layout.model_world`, in megatron-core's default rank
            order.
        seed: of megatron-core's model-parallel random generators.

    Raises:
        WorldError: outside `virtual_megatron`, or a process group is in use already.
        LayoutError: there is no such rank.
    """
    current_device()
    world = layout.model_world
    if not 0 <= rank < world:
        raise LayoutError(f"rank = {rank}: {layout.label} is shown by {world} ranks, 0 to {world - 1}.")
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if distributed.is_initialized():
        raise WorldError(
            f"A real process group is in use (backend {distributed.get_backend()!r}, {distributed.get_world_size()} "
            f"ranks): a virtual cluster would replace it. Call torch.distributed.destroy_process_group() first."
        )
    # torch replaces the hook for uncaught exceptions by one that writes the rank before every line.
    with replaced(sys, {"excepthook": sys.excepthook}):
        distributed.init_process_group(backend="fake", rank=rank, world_size=world, store=FakeStore())
        try:
            with ExitStack() as stack:
                with _own_groups_only(rank):
                    stack.enter_context(model_parallel(layout, seed))
                yield
        finally:
            distributed.destroy_process_group()


@contextmanager
def _own_groups_only(rank: int) -> Iterator[None]:
    """Let megatron-core make the groups that hold `rank` and no others."""
    from megatron.core import parallel_state

    def own_group(generator: Any, token: str) -> list[list[int]]:
        mask = generator.get_mask(generator.order, token)
        return [own_rank_group(rank, generator.ordered_size, mask)]

    with replaced(parallel_state.RankGenerator, {"get_ranks": own_group}):
        yield


def own_rank_group(rank: int, axis_sizes: list[int], in_group: list[bool]) -> list[int]:
    """The ranks that differ from `rank` only along the axes in the group, in megatron-core's order.

    Args:
        rank: a global rank.
        axis_sizes: of all axes of the mesh, the fastest-varying first.
        in_group: which of the axes the group spans.
    """
    group = [rank]
    stride = 1
    for size, spanned in zip(axis_sizes, in_group, strict=True):
        if spanned:
            start = rank // stride % size
            group = [member + (i - start) * stride for i in range(size) for member in group]
        stride *= size
    return group
