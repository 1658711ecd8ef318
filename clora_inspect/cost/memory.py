"""The account of one rank's peak memory: the stage's real modules are run once, and followed."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from clora.linears import language_model, unwrap
from clora_inspect.cost.in_flight import ChunkBytes, Peak, worst_moment
from clora_inspect.cost.kept import kept_bytes
from clora_inspect.cost.live import LiveBytes
from clora_inspect.cost.microbatch import MicroBatch, backward, forward, hand_on
from clora_inspect.cost.static import static_lines
from clora_inspect.job.rank_memory import MemoryLine, RankMemory, account
from clora_inspect.job.workload import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import torch
    from torch import nn

    from clora_inspect.cost.kept import KeptBytes
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.workload import Workload

WORKSPACE = 32 << 20
"""Bytes of Transformer Engine's workspace for matrix products from Hopper on
(`get_cublas_workspace_size_bytes` in its `module/base.py`).
"""

OVERLAP_BUFFERS = 12
"""Products of a layer that overlap with a message, each in a buffer of its own (`methods` in
`initialize_ub` of Transformer Engine's `module/base.py`). All layers share them.
"""

LAYER_PARTS = 3
"""The words of a module's path below its layer that a line of the account names, at most."""


def micro_batch(workload: Workload) -> MicroBatch:
    """Return one micro-batch of a step."""
    return MicroBatch(workload.seq_length, workload.micro_batch_size, workload.packed, workload.imbalance)


Run = tuple[ChunkBytes, dict[str, int], int]
"""What a chunk needs, the bytes that its modules kept by place, and what is left behind after its
backward.
"""


def runs_of(
    chunks: Sequence[nn.Module], workload: Workload, observers: Iterable[AbstractContextManager[Any]] = ()
) -> list[Run]:
    """Run each chunk of a rank once, forward and backward. Call it inside its virtual cluster.

    Args:
        chunks: the rank's chunks on the meta device, as they are trained: adapted, or with
            everything trained.
        workload: the micro-batches of a step.
        observers: entered around each forward and backward, to count something else.
    """
    observers = tuple(observers)
    with ExitStack() as stack:
        for chunk in chunks:
            for parameter in chunk.parameters():
                if parameter.requires_grad:
                    # megatron-core adds a gradient to its buffer and drops it.
                    handle = parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
                    stack.callback(handle.remove)
        return [_run(chunk, workload, observers) for chunk in chunks]


def rank_memory(
    chunks: Sequence[nn.Module],
    runs: Sequence[Run],
    layout: Layout,
    workload: Workload,
    *,
    stage: int,
    adapters: frozenset[str] = frozenset(),
) -> RankMemory:
    """Return the account of a rank of one stage.

    Args:
        chunks: the rank's chunks, as they are trained.
        runs: what `runs_of` found of them.
        layout: the layout of the whole job.
        workload: the micro-batches of a step.
        stage: number of the pipeline stage.
        adapters: names of parameters of adapters.
    """
    config: Any = language_model(unwrap(chunks[0])).config
    peak = worst_moment(
        [needs for needs, _, _ in runs],
        stage=stage,
        stages=layout.pp,
        micro_batches=workload.micro_batches(layout),
        group=config.microbatch_group_size_per_vp_stage,
    )
    return account(
        (
            *static_lines(chunks, adapters, layout, workload),
            *_activation_lines(peak, runs),
            _transient_line(peak, len(chunks)),
            *_buffer_lines(runs),
            *_overlap_lines(config, layout, workload),
            _allowance(workload),
        )
    )


def _run(chunk: nn.Module, workload: Workload, observers: tuple[AbstractContextManager[Any], ...]) -> Run:
    """Run one chunk forward and backward."""
    known = [*chunk.parameters(), *chunk.buffers()]
    known += [main for parameter in chunk.parameters() if (main := getattr(parameter, "main_grad", None)) is not None]
    live = LiveBytes(known)
    with kept_bytes([chunk]) as kept:
        passed = forward(chunk, micro_batch(workload), observers=(*observers, live))
    if passed.states is not None:
        live.add(passed.states)
    hand_on(chunk, passed)
    after_forward = live.moment
    backward(passed, observers=(*observers, live))
    end = live.moment
    del passed
    needs = ChunkBytes(
        kept=live.at(after_forward),
        forward_peak=live.peak(0, after_forward),
        backward_peak=live.peak(after_forward, end),
    )
    left = live.left
    return needs, by_place(kept), left


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _activation_lines(peak: Peak, runs: Sequence[Run]) -> Iterator[MemoryLine]:
    for number, (needs, kept, _) in enumerate(runs):
        count = peak.kept[number]
        where = f"chunk {number}, " if len(runs) > 1 else ""
        # What is alive, but not kept by autograd. Less than nothing if some of it stays for good.
        rest = needs.kept - sum(kept.values())
        for what, size in (*kept.items(), ("other" if rest > 0 else "counted among the buffers", rest)):
            if size and count:
                yield MemoryLine(
                    part="activations",
                    what=f"{where}{what}, {count} micro-batch{'es' if count > 1 else ''} in flight",
                    bytes=size * count,
                    source="saved for the backward by the real modules",
                    counted=True,
                )


def by_place(kept: KeptBytes) -> dict[str, int]:
    """Return the bytes that modules kept, those of equal layers together, the largest first."""
    sums: Counter[str] = Counter()
    for path, size in kept.by_module.items():
        words = path.split(".")
        layer = next((i for i, word in enumerate(words) if word.isdigit()), None)
        words = words if layer is None else words[layer + 1 :]
        sums[".".join(words[:LAYER_PARTS]) or ("the model itself" if layer is None else "layers themselves")] += size
    return dict(sums.most_common())


def _transient_line(peak: Peak, chunks: int) -> MemoryLine:
    phase = "backward" if peak.in_backward else "forward"
    where = f" of chunk {peak.running}" if chunks > 1 else ""
    return MemoryLine(
        part="transient",
        what=f"the {phase}{where} that runs at the peak",
        bytes=peak.transient,
        source="storages alive at its worst moment, beside what is kept",
        counted=True,
    )


def _buffer_lines(runs: Sequence[Run]) -> Iterator[MemoryLine]:
    yield MemoryLine(
        part="buffers",
        what="memory that stays after a micro-batch",
        bytes=max(left for _, _, left in runs),
        source="storages alive after the backward: gathering, masks, rotary tables",
        counted=True,
    )
    yield MemoryLine(
        part="buffers",
        what="workspace of matrix products",
        bytes=WORKSPACE,
        source="Transformer Engine's on Hopper and later",
        counted=False,
    )


def _overlap_lines(config: Any, layout: Layout, workload: Workload) -> Iterator[MemoryLine]:
    if config.tp_comm_overlap and layout.tp > 1:
        states = workload.seq_length * workload.micro_batch_size // layout.cp * config.hidden_size
        yield MemoryLine(
            part="buffers",
            what="buffers of tp_comm_overlap",
            bytes=OVERLAP_BUFFERS * states * config.params_dtype.itemsize,
            source=f"{OVERLAP_BUFFERS} of one micro-batch's states, as Transformer Engine's initialize_ub makes them",
            counted=False,
        )


def _allowance(workload: Workload) -> MemoryLine:
    return MemoryLine(
        part="allowance",
        what="outside of torch's allocator",
        bytes=round(workload.memory_allowance_gib * GIB),
        source="memory-allowance-gib",
        counted=False,
    )
