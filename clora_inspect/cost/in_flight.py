"""Find the micro-batches whose activations a pipeline stage keeps at the worst moment. Pure
arithmetic, from the order in which megatron-core's schedules run forwards and backwards
(`pipeline_parallel/schedules.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clora_inspect.cost.span import Span


CYCLES = 3
"""Micro-batches, as a multiple of the stages or of a group, after which a schedule only repeats
itself: less than two fill the pipeline, and the order repeats after one more.
"""


@dataclass(frozen=True, slots=True)
class ChunkBytes:
    """The memory that one micro-batch of one chunk needs."""

    kept: int
    """Kept between its forward and its backward."""
    forward_peak: int
    """The most that is alive in its forward, the kept included."""
    backward_peak: int
    """The same in its backward."""
    behind: int = 0
    """Held by its modules from a backward to the chunk's next forward."""


def chunk_bytes(forward: Span, backward: Span, behind: int = 0) -> ChunkBytes:
    """Return what a chunk with this forward and this backward needs."""
    return ChunkBytes(forward.net, forward.peak, forward.net + backward.peak, behind)


@dataclass(frozen=True, slots=True)
class Peak:
    """The worst moment of a step."""

    kept: tuple[int, ...]
    """For each chunk, the number of micro-batches that are kept."""
    running: int
    """The chunk whose forward or backward runs at that moment. It is one of the kept."""
    in_backward: bool
    activations: int
    transient: int
    gradients: int = 0
    """Bytes of gradients of hidden states that the schedule holds between two backwards."""
    behind: int = 0
    """Bytes that the other chunks hold of their backwards."""

    @property
    def bytes(self) -> int:
        return self.activations + self.transient + self.gradients + self.behind


def worst_moment(
    chunks: Sequence[ChunkBytes],
    *,
    stage: int,
    stages: int,
    micro_batches: int,
    group: int | None = None,
    states: int = 0,
) -> Peak:
    """Return the moment of a step with the most bytes on one stage.

    Args:
        chunks: the chunks of the stage's ranks, in order.
        stage: number of the stage.
        stages: number of stages.
        micro_batches: micro-batches of a step.
        group: micro-batches that a chunk runs in a row, `microbatch_group_size_per_vp_stage`; None
            for as many as there are stages.
        states: bytes of the hidden states that stages hand on. The gradient that a backward has
            sent stays in a variable until the next backward returns, and that which it got until
            the next one arrives.
    """
    group = group or stages
    kept, behind = [0] * len(chunks), [0] * len(chunks)
    activations = sent = received = most = 0
    worst = None
    enough = min(micro_batches, CYCLES * max(stages, group))
    for chunk, is_backward in _order(len(chunks), stage, stages, enough, group):
        needs = chunks[chunk]
        if not is_backward:
            kept[chunk] += 1
            activations += needs.kept
        peak = needs.backward_peak if is_backward else needs.forward_peak
        # The gradient that a backward gets is among what it needs itself.
        gradients = sent if is_backward else sent + received
        behind[chunk] = 0
        transient, others = max(peak - needs.kept, 0), sum(behind)
        size = activations + transient + gradients + others
        if worst is None or size > most:
            worst, most = Peak(tuple(kept), chunk, is_backward, activations, transient, gradients, others), size
        if is_backward:
            kept[chunk] -= 1
            activations -= needs.kept
            behind[chunk] = needs.behind
            sent = 0 if stage == chunk == 0 else states
            received = 0 if (stage, chunk) == (stages - 1, len(chunks) - 1) else states
    if worst is None:
        return Peak(tuple(kept), 0, False, 0, 0)
    return worst


def _order(chunks: int, stage: int, stages: int, micro_batches: int, group: int) -> Iterator[tuple[int, bool]]:
    """Yield the chunk of each forward and backward of a step, and whether it is a backward."""
    total = micro_batches * chunks
    warmup = min(total, warmup_forwards(chunks, stage, stages, group))
    for k in range(total + warmup):
        if k < total:
            yield _chunk_of(k, chunks, group), False
        if k >= warmup:
            # The chunks' backwards run in the opposite order.
            yield chunks - 1 - _chunk_of(k - warmup, chunks, group), True


def _chunk_of(forward: int, chunks: int, group: int) -> int:
    """Return the chunk of a forward: each runs a group of micro-batches before the next does."""
    return forward // group % chunks


def warmup_forwards(chunks: int, stage: int, stages: int, group: int | None = None) -> int:
    """Return the forwards of a stage before its first backward, less the one just before it."""
    if chunks == 1:
        return stages - stage - 1
    # In the interleaved schedule. Whether sends and receives overlap with computation
    # (`overlap_p2p_comm`) does not change their number.
    return 2 * (stages - stage - 1) + (chunks - 1) * (group or stages)
