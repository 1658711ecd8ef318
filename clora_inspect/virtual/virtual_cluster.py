"""Play one rank of a cluster of any size in this one process.

A rank's part of a model depends on its coordinates in the mesh and on the sizes of its groups, not
on any message. So it is enough that the process groups exist, with nobody else in them.
"""

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
    """Be rank `rank` of the smallest cluster with this layout: `layout.model_world` ranks.

    torch.distributed runs its fake backend, whose collectives return at once and move no data.
    megatron-core's `parallel_state` is initialised over it as in a training script. On exit both
    are destroyed.

    Args:
        layout: sizes of the mesh axes.
        rank: the global rank to play, below `layout.model_world`, in megatron-core's default rank
            order.
        seed: the seed of megatron-core's model-parallel random states.

    Raises:
        WorldError: no world is entered, or a process group is in use already.
        LayoutError: the cluster has no such rank.
    """
    current_device()  # raises if no world is entered
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
    # init_process_group() replaces the hook for uncaught exceptions by one that writes "[rank0]:"
    # before each line, and destroy_process_group() leaves it there.
    with replaced(sys, {"excepthook": sys.excepthook}):
        distributed.init_process_group(backend="fake", rank=rank, world_size=world, store=FakeStore())
        try:
            with ExitStack() as stack:
                with _own_groups_only(rank):
                    stack.enter_context(model_parallel(layout, seed))
                yield
        finally:
            # A user's function may have done it.
            if distributed.is_initialized():
                distributed.destroy_process_group()


@contextmanager
def _own_groups_only(rank: int) -> Iterator[None]:
    """Make megatron-core create only the groups that contain `rank`.

    `RankGenerator.get_ranks` returns all groups of a kind, and megatron-core creates each of them
    on each rank. In a world of thousands of ranks this takes seconds, and the groups without this
    rank change nothing here.
    """
    from megatron.core import parallel_state

    def own_group(generator: Any, token: str) -> list[list[int]]:
        # A token names the axes that a group spans, for example "tp-cp".
        spanned = generator.get_mask(generator.order, token)
        return [own_rank_group(rank, generator.ordered_size, spanned)]

    with replaced(parallel_state.RankGenerator, {"get_ranks": own_group}):
        yield


def own_rank_group(rank: int, axis_sizes: list[int], in_group: list[bool]) -> list[int]:
    """Return the ranks that differ from `rank` only along the group's axes.

    Example: with axis sizes [2, 4] and a group along the second axis, the group of rank 3 is
    [1, 3, 5, 7]. megatron-core's order is ascending, with the group's first axis varying fastest.

    Args:
        rank: a global rank.
        axis_sizes: sizes of all axes of the mesh, the fastest-varying first.
        in_group: for each axis, whether the group spans it.
    """
    group = [rank]
    stride = 1
    for size, spanned in zip(axis_sizes, in_group, strict=True):
        if spanned:
            start = rank // stride % size
            group = [member + (i - start) * stride for i in range(size) for member in group]
        stride *= size
    return group
