"""`Workload`: what a job computes in one step, and how its optimizer keeps its states. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from clora.errors import CloraError
from clora.limits import LARGEST_EXPERTS, LARGEST_GPU_GIB, LARGEST_STATE, LARGEST_WORKLOAD
from clora_inspect.job.recompute import GRAMMAR, SHOWN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from clora_inspect.job.layout import Layout

GIB = 1 << 30

BATCH = ("num_microbatches", "global_batch_size")
"""Fields that say how long a step is. Each gives the other, so that one of them is enough."""

TYPED = ("seq_length", "micro_batch_size", "packed", "num_microbatches", "imbalance", "recompute")
"""Fields that have an option on the command line, and a line in the what-if form."""

_Count = Annotated[int, Meta(ge=1, le=LARGEST_WORKLOAD)]


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The micro-batches of a training step. The defaults are assumptions, and shown as such."""

    seq_length: Annotated[_Count, Meta(description="tokens in a row, on all context-parallel ranks together")] = 4096
    micro_batch_size: Annotated[_Count, Meta(description="rows of one micro-batch")] = 1
    packed: Annotated[
        _Count | None,
        Meta(description="sequences of equal length that are packed in a row; left out: a row is one sequence"),
    ] = None
    num_microbatches: Annotated[
        _Count | None,
        Meta(description="micro-batches of a step on one rank; left out: enough to fill the pipeline"),
    ] = None
    global_batch_size: Annotated[
        _Count | None,
        Meta(description="rows of a step over all ranks, which give num_microbatches where that is left out"),
    ] = None
    imbalance: Annotated[
        # An expert gets at most all tokens, which is the number of experts times the mean.
        Annotated[float, Meta(ge=1, le=LARGEST_EXPERTS)],
        Meta(description="tokens of the fullest expert over the mean of all experts"),
    ] = 1.0
    recompute: Annotated[
        Annotated[str, Meta(pattern=f"^({GRAMMAR})$")] | None,
        Meta(description=f"{SHOWN}: what is recomputed in the backward; left out: as the model's config says"),
    ] = None
    use_distributed_optimizer: Annotated[
        bool, Meta(description="whether optimizer states are split over the data-parallel and cp ranks")
    ] = True
    grad_reduce_in_fp32: Annotated[
        bool, Meta(description="whether gradients are kept and reduced in fp32, and not in the dtype of their weights")
    ] = True
    optimizer_state_bytes: Annotated[
        Annotated[int, Meta(ge=0, le=LARGEST_STATE)],
        Meta(description="bytes for each trained parameter in 16 bits; 12: Adam's fp32 weight and two fp32 moments"),
    ] = 12
    memory_allowance_gib: Annotated[
        Annotated[float, Meta(ge=0, le=LARGEST_GPU_GIB)],
        Meta(description="GiB of a GPU outside of torch's allocator: CUDA context, NCCL"),
    ] = 0.0

    def micro_batches(self, layout: Layout) -> int:
        """Return the micro-batches of a step on one rank; the default fills the pipeline."""
        if self.num_microbatches is None and self.global_batch_size is not None:
            return max(self.global_batch_size // (self.micro_batch_size * layout.dp), 1)
        return self.num_microbatches or 2 * layout.pp

    def step_tokens(self, layout: Layout) -> int:
        """Return the tokens of a step over all ranks."""
        return self.seq_length * self.micro_batch_size * self.micro_batches(layout) * layout.dp

    def check_batch(self, layout: Layout) -> None:
        """Refuse a step that two fields give different lengths.

        Raises:
            WorkloadError: with the numbers of both.
        """
        count, rows = self.num_microbatches, self.global_batch_size
        if count is None or rows is None or rows == count * self.micro_batch_size * layout.dp:
            return
        raise WorkloadError(
            f"num_microbatches = {count} and global_batch_size = {rows}: {count} micro-batches of "
            f"{self.micro_batch_size} rows on dp = {layout.dp} ranks are {count * self.micro_batch_size * layout.dp} "
            "rows. Leave one of the two out."
        )


class WorkloadError(CloraError):
    """The fields of a workload contradict each other."""


def replacing(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields`, which are to replace those of a workload, and None for a length of a step
    that another field of `BATCH` gives.
    """
    given = [name for name in BATCH if fields.get(name) is not None]
    return {**dict.fromkeys(BATCH), **fields} if len(given) == 1 else dict(fields)
