"""Collectives of `torch.distributed` in the forms in which megatron-core calls them, on CPU tensors and gloo."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch


def _as_list(sizes: torch.Tensor | Sequence[int] | None) -> list[int] | None:
    """Split sizes as torch wants them. megatron-core passes tensors once they have come back from the GPU."""
    import torch

    if sizes is None:
        return None
    return sizes.tolist() if isinstance(sizes, torch.Tensor) else list(sizes)


@contextmanager
def cpu_collectives() -> Iterator[None]:
    """Patch `torch.distributed` for the duration: `all_to_all_single` takes its split sizes as tensors, too."""
    from torch import distributed

    plain = distributed.all_to_all_single

    def all_to_all_single(
        output: torch.Tensor,
        input: torch.Tensor,  # noqa: A002
        output_split_sizes: torch.Tensor | Sequence[int] | None = None,
        input_split_sizes: torch.Tensor | Sequence[int] | None = None,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        return plain(output, input, _as_list(output_split_sizes), _as_list(input_split_sizes), group, async_op)

    with replaced(distributed, {"all_to_all_single": all_to_all_single}):
        yield
