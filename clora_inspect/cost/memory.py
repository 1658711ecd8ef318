"""The account of one rank's peak memory: the stage's real modules are run once, and followed."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from clora.linears import language_model, unwrap
from clora_inspect.cost.between_micro_batches import handed_on
from clora_inspect.cost.borders import Borders
from clora_inspect.cost.in_flight import ChunkBytes, Peak, chunk_bytes, worst_moment
from clora_inspect.cost.kept import kept_bytes
from clora_inspect.cost.live import LiveBytes
from clora_inspect.cost.microbatch import ForwardPass, MicroBatch, backward, forward, hand_on
from clora_inspect.cost.span import Span, joined
from clora_inspect.cost.static import WORKSPACE, static_lines
from clora_inspect.job.rank_memory import MemoryLine, RankMemory, account
from clora_inspect.job.workload import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import torch
    from torch import nn

    from clora_inspect.job.layout import Layout
    from clora_inspect.job.workload import Workload

OVERLAP_BUFFERS = 12
"""Products of a layer that overlap with a message, each in a buffer of its own (`methods` in
`initialize_ub` of Transformer Engine's `module/base.py`). All layers share them.
"""

LAYER_PARTS = 3
"""The words of a module's path below its layer that a line of the account names, at most."""


def micro_batch(workload: Workload) -> MicroBatch:
    """Return one micro-batch of a step."""
    return MicroBatch(workload.seq_length, workload.micro_batch_size, workload.packed, workload.imbalance)


_Forward: TypeAlias = "tuple[ForwardPass, list[int]]"
"""A forward, and the moments at its borders."""


@dataclass(frozen=True, slots=True)
class Run:
    """The memory that one chunk needed in one forward and backward."""

    forward: tuple[Span, ...]
    """One span; with `borders` one before the layers, one for each layer, and one behind them."""
    backward: tuple[Span, ...]
    """Spans in the order of the backward. Modules before the layers are frozen and have none."""
    kept: dict[str, int]
    """The bytes that its modules kept, by place."""
    held: tuple[int, ...]
    """For each span of the forward, the bytes that it leaves once and not for each micro-batch."""
    behind: tuple[int, ...]
    """For each span of the forward, the bytes that the backward leaves until the next forward."""
    left: int
    """Bytes that the backward leaves for good."""
    released: int = 0
    """Bytes of the input of its first layer, if the model holds it up to the end of its forward and
    no longer; 0 without `borders`.
    """

    @property
    def needs(self) -> ChunkBytes:
        return chunk_bytes(joined(self.forward), joined(self.backward), sum(self.behind))

    @property
    def stays(self) -> int:
        """Bytes that are there between micro-batches."""
        return sum(self.held) + self.left


def runs_of(
    chunks: Sequence[nn.Module],
    workload: Workload,
    observers: Iterable[AbstractContextManager[Any]] = (),
    borders: Borders | None = None,
) -> list[Run]:
    """Run each chunk of a rank forward and backward. Call it inside its virtual cluster.

    Two micro-batches are in flight, as in a run. What the first forward leaves and the second does
    not stays between micro-batches. The backward is that of the first one.

    Args:
        chunks: the rank's chunks on the meta device, as they are trained: adapted, or with
            everything trained.
        workload: the micro-batches of a step.
        observers: entered around each forward and backward, to count something else.
        borders: the borders of layers at which the run of the only chunk is cut.
    """
    observers = tuple(observers)
    with ExitStack() as stack:
        for chunk in chunks:
            for parameter in chunk.parameters():
                if parameter.requires_grad:
                    # megatron-core adds a gradient to its buffer and drops it.
                    handle = parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
                    stack.callback(handle.remove)
        batch, borders, live = micro_batch(workload), borders or Borders(), LiveBytes(_known(chunks))
        earlier = deque(_forward(chunk, batch, live, borders) for chunk in chunks)
        return [_run(chunk, batch, live, borders, earlier, observers) for chunk in chunks]


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
        [run.needs for run in runs],
        stage=stage,
        stages=layout.pp,
        micro_batches=workload.micro_batches(layout),
        group=config.microbatch_group_size_per_vp_stage,
        states=handed_on(config, workload, layout),
    )
    return account(
        (
            *static_lines(chunks, adapters, layout, workload),
            *_activation_lines(peak, runs),
            *_transient_lines(peak, len(chunks)),
            *_buffer_lines(runs),
            *overlap_lines(config, layout, workload),
            _allowance(workload),
        )
    )


def _known(chunks: Sequence[nn.Module]) -> Iterator[torch.Tensor]:
    """Yield the tensors that are there anyway."""
    for chunk in chunks:
        yield from chunk.buffers()
        for parameter in chunk.parameters():
            yield parameter
            if (main := getattr(parameter, "main_grad", None)) is not None:
                yield main


def _forward(
    chunk: nn.Module,
    batch: MicroBatch,
    live: LiveBytes,
    borders: Borders,
    observers: tuple[AbstractContextManager[Any], ...] = (),
) -> _Forward:
    with borders.forward(live):
        passed = forward(chunk, batch, observers=(*observers, live))
        hand_on(chunk, passed)
    return passed, borders.forward_moments(live.moment)


def _run(
    chunk: nn.Module,
    batch: MicroBatch,
    live: LiveBytes,
    borders: Borders,
    earlier: deque[_Forward],
    observers: tuple[AbstractContextManager[Any], ...],
) -> Run:
    """Run the forward of one chunk, and the backward of its micro-batch before, which is first in
    `earlier`.
    """
    passed, first = earlier.popleft()
    start = live.moment
    with kept_bytes([chunk]) as kept:
        _in_flight, second = _forward(chunk, batch, live, borders, observers)
    after_forward = live.moment
    of_modules = by_place(kept.of(live.made_since(start)))
    with borders.backward(live):
        backward(passed, observers=(*observers, live))
        # With its graph go the gradients of tensors that no module made.
        del passed
    end = live.moment
    back = borders.backward_moments(after_forward, end)
    third, left = second, 0
    if live.made_since(after_forward):
        # A forward replaces what modules hold of the backward. The rest is there for good.
        _in_flight, third = _forward(chunk, batch, live, borders)
        left = live.take_out(live.made_since(after_forward) - live.made_since(end))
    forward_spans = live.spans(second)
    return Run(
        forward=forward_spans,
        backward=live.spans(back),
        kept=of_modules,
        held=_more(live.spans(first), forward_spans),
        behind=_more(forward_spans, live.spans(third)),
        left=left,
        released=borders.released,
    )


def _more(spans: Sequence[Span], others: Sequence[Span]) -> tuple[int, ...]:
    return tuple(span.net - other.net for span, other in zip(spans, others, strict=True))


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _activation_lines(peak: Peak, runs: Sequence[Run]) -> Iterator[MemoryLine]:
    for number, run in enumerate(runs):
        count = peak.kept[number]
        where = f"chunk {number}, " if len(runs) > 1 else ""
        # What is alive, but not kept by autograd.
        other = run.needs.kept - sum(run.kept.values())
        for what, size in (*run.kept.items(), ("other", other)):
            if size and count:
                yield MemoryLine(
                    part="activations",
                    what=f"{where}{what}, {count} micro-batch{'es' if count > 1 else ''} in flight",
                    bytes=size * count,
                    source="saved for the backward by the real modules",
                    counted=True,
                )


def by_place(kept: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes that modules kept, those of equal layers together, the largest first."""
    sums: Counter[str] = Counter()
    for path, size in kept.items():
        words = path.split(".")
        layer = next((i for i, word in enumerate(words) if word.isdigit()), None)
        words = words if layer is None else words[layer + 1 :]
        sums[".".join(words[:LAYER_PARTS]) or ("the model itself" if layer is None else "layers themselves")] += size
    return dict(sums.most_common())


def _transient_lines(peak: Peak, chunks: int) -> Iterator[MemoryLine]:
    phase = "backward" if peak.in_backward else "forward"
    where = f" of chunk {peak.running}" if chunks > 1 else ""
    running = f"the {phase}{where} that runs at the peak"
    for what, size, source in (
        (running, peak.transient, "storages alive at its worst moment, beside what is kept"),
        ("backwards of other chunks", peak.behind, "storages that their modules hold until their next forward"),
        (
            "gradients that were handed on",
            peak.gradients,
            "variables of megatron-core's schedule, until the next gradients are there",
        ),
    ):
        if size or what == running:
            yield MemoryLine(part="transient", what=what, bytes=size, source=source, counted=True)


def _buffer_lines(runs: Sequence[Run]) -> Iterator[MemoryLine]:
    yield MemoryLine(
        part="buffers",
        what="memory that stays between micro-batches",
        bytes=sum(run.stays for run in runs),
        source="storages that a first micro-batch leaves: gathering, masks, rotary tables, routing",
        counted=True,
    )
    yield MemoryLine(
        part="buffers",
        what="workspace of matrix products",
        bytes=WORKSPACE,
        source="Transformer Engine's on Hopper and later",
        counted=False,
    )


def overlap_lines(config: Any, layout: Layout, workload: Workload) -> Iterator[MemoryLine]:
    """Yield the line of what `tp_comm_overlap` needs, if the model's config has it."""
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
