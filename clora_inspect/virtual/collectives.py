"""Let gloo take the collectives of `torch.distributed` in the forms in which megatron-core calls
them for NCCL.

Mixture-of-experts layers split rows unevenly between ranks, and gloo is stricter than NCCL about
this. The replacements below change nothing for calls that gloo takes as they are.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Collective = Callable[..., Any]


@contextmanager
def cpu_collectives() -> Iterator[None]:
    """Replace three collectives of `torch.distributed`; restore them on exit.

    `all_to_all_single` takes split sizes of any kind. `all_gather` and `reduce_scatter` take a
    different number of rows from and for each rank.
    """
    replacements = {
        "all_to_all_single": _taking_any_split_sizes(distributed.all_to_all_single),
        "all_gather": _gathering_uneven_rows(distributed.all_gather),
        "reduce_scatter": _scattering_uneven_rows(distributed.reduce_scatter),
    }
    with replaced(distributed, replacements):
        yield


def _taking_any_split_sizes(all_to_all_single: Collective) -> Collective:
    """Return `all_to_all_single` with split sizes converted to lists.

    torch takes lists only. `maybe_move_tensor_to_cpu` of megatron-core turns the token dispatcher's
    split sizes into NumPy arrays, but only `if tensor.is_cuda`: on the CPU they stay tensors.
    """

    def replacement(
        output: torch.Tensor,
        input: torch.Tensor,  # noqa: A002 - torch's own name, which callers write
        output_split_sizes: torch.Tensor | Sequence[int] | None = None,
        input_split_sizes: torch.Tensor | Sequence[int] | None = None,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        sizes = _as_list(output_split_sizes), _as_list(input_split_sizes)
        return all_to_all_single(output, input, *sizes, group, async_op)

    return replacement


def _gathering_uneven_rows(all_gather: Collective) -> Collective:
    """Return `all_gather` that also takes tensors of different numbers of rows.

    `gather_from_sequence_parallel_region(output_split_sizes=...)` of megatron-core calls it this
    way, to gather the tokens of experts that are split over expert tensor parallelism.
    """

    def replacement(
        tensor_list: list[torch.Tensor], tensor: torch.Tensor, group: Any = None, async_op: bool = False
    ) -> Any:
        if _have_one_shape(tensor_list):
            return all_gather(tensor_list, tensor, group, async_op)
        # Gather tensors padded to the largest number of rows, and drop the padding.
        rows = max(len(gathered) for gathered in tensor_list)
        padded = torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])
        received = [torch.empty_like(padded) for _ in tensor_list]
        all_gather(received, padded, group)
        for gathered, with_padding in zip(tensor_list, received, strict=True):
            gathered.copy_(with_padding[: len(gathered)])
        # megatron-core never makes an uneven call asynchronous, so nobody misses a work handle.
        return None

    return replacement


def _scattering_uneven_rows(reduce_scatter: Collective) -> Collective:
    """Return `reduce_scatter` that also takes tensors of different numbers of rows.

    `reduce_scatter_to_sequence_parallel_region(input_split_sizes=...)` of megatron-core calls it
    this way, to send the experts' outputs back to the ranks that the tokens came from.
    """

    def replacement(
        output: torch.Tensor,
        input_list: list[torch.Tensor],
        op: Any = distributed.ReduceOp.SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        if _have_one_shape(input_list):
            return reduce_scatter(output, input_list, op, group, async_op)
        # Reduce all rows on each rank, and keep this rank's.
        total = torch.cat(input_list)
        distributed.all_reduce(total, op, group)
        output.copy_(torch.split(total, [len(part) for part in input_list])[distributed.get_rank(group)])
        return None

    return replacement


def _as_list(sizes: torch.Tensor | Sequence[int] | None) -> list[int] | None:
    if sizes is None:
        return None
    return sizes.tolist() if isinstance(sizes, torch.Tensor) else list(sizes)


def _have_one_shape(tensors: Sequence[torch.Tensor]) -> bool:
    return len({tensor.shape for tensor in tensors}) < 2
