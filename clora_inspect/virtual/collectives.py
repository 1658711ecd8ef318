"""Collectives of `torch.distributed` in the forms in which megatron-core calls them, on CPU tensors
and gloo.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch


def _as_list(sizes: torch.Tensor | Sequence[int] | None) -> list[int] | None:
    """Split sizes as torch wants them. megatron-core passes tensors once they have come back from
    the GPU.
    """
    import torch

    if sizes is None:
        return None
    return sizes.tolist() if isinstance(sizes, torch.Tensor) else list(sizes)


def _are_even(tensors: Sequence[torch.Tensor]) -> bool:
    return len({tensor.shape for tensor in tensors}) < 2


@contextmanager
def cpu_collectives() -> Iterator[None]:
    """Patch `torch.distributed` for the duration, so that it does what NCCL does and gloo does not.

    `all_to_all_single` takes its split sizes as tensors, too; `all_gather` and `reduce_scatter`
    take another number of rows from and for every rank, as the experts of expert tensor parallelism
    need.
    """
    import torch
    from torch import distributed

    plain_all_to_all = distributed.all_to_all_single
    plain_all_gather = distributed.all_gather
    plain_reduce_scatter = distributed.reduce_scatter

    def all_to_all_single(
        output: torch.Tensor,
        input: torch.Tensor,  # noqa: A002
        output_split_sizes: torch.Tensor | Sequence[int] | None = None,
        input_split_sizes: torch.Tensor | Sequence[int] | None = None,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        return plain_all_to_all(
            output, input, _as_list(output_split_sizes), _as_list(input_split_sizes), group, async_op
        )

    def all_gather(
        tensor_list: list[torch.Tensor], tensor: torch.Tensor, group: Any = None, async_op: bool = False
    ) -> Any:
        if _are_even(tensor_list):
            return plain_all_gather(tensor_list, tensor, group, async_op)
        rows = max(len(gathered) for gathered in tensor_list)
        padded = torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])
        received = [torch.empty_like(padded) for _ in tensor_list]
        plain_all_gather(received, padded, group)
        for gathered, whole in zip(tensor_list, received, strict=True):
            gathered.copy_(whole[: len(gathered)])
        return None

    def reduce_scatter(
        output: torch.Tensor,
        input_list: list[torch.Tensor],
        op: Any = distributed.ReduceOp.SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        if _are_even(input_list):
            return plain_reduce_scatter(output, input_list, op, group, async_op)
        total = torch.cat(input_list)
        distributed.all_reduce(total, op, group)
        output.copy_(torch.split(total, [len(part) for part in input_list])[distributed.get_rank(group)])
        return None

    patched = {"all_to_all_single": all_to_all_single, "all_gather": all_gather, "reduce_scatter": reduce_scatter}
    with replaced(distributed, patched):
        yield
