"""Compute the traffic that no micro-batch makes by itself: the states that pipeline stages hand on,
and what data-parallel ranks exchange once a step.

Neither happens while one stage runs alone, so it is computed from the shapes that megatron-core
sends. A test compares it with what its schedules and its DistributedDataParallel send.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, lcm
from typing import TYPE_CHECKING, Any

from clora_inspect.cost.static import ALIGNMENT, FP32
from clora_inspect.cost.static import is_expert as of_expert
from clora_inspect.job.traffic import Owner, Phase, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

    from clora_inspect.job.layout import Layout
    from clora_inspect.job.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class DataParallelSettings:
    """Fields of `DistributedDataParallelConfig` that change the bytes of a step."""

    distributed_optimizer: bool = True
    gradients_in_fp32: bool = True


def handed_on(config: Any, workload: Workload, layout: Layout) -> int:
    """Return the bytes of the hidden states that a stage hands on, on one rank."""
    tokens = workload.seq_length // layout.cp * workload.micro_batch_size
    if config.sequence_parallel:
        tokens //= layout.tp
    return int(tokens * config.hidden_size * (config.pipeline_dtype or config.params_dtype).itemsize)


def pipeline_traffic(states: int, stage: int, layout: Layout) -> tuple[Traffic, ...]:
    """Return what one rank of a stage sends to other stages for a micro-batch.

    Args:
        states: bytes of the hidden states that a stage hands on, on one rank.
        stage: number of the stage, from 0.
        layout: the layout; each of its `vpp` chunks hands its states on.
    """
    chunks = {
        Phase.FORWARD: layout.vpp - (stage == layout.pp - 1),
        Phase.BACKWARD: layout.vpp - (stage == 0),
    }
    return tuple(
        _line("pp", "send", phase, Owner.BASE, states * count, states * count, count)
        for phase, count in chunks.items()
        if count and layout.pp > 1
    )


def step_traffic(chunks: Sequence[nn.Module], layout: Layout, settings: DataParallelSettings) -> tuple[Traffic, ...]:
    """Return what one rank sends once a step: gradients of what is trained, and with the
    distributed optimizer the new weights.
    """
    lines: list[Traffic] = []
    experts = layout.world // (layout.pp * layout.ep * layout.expert_tp)
    for axis, ranks, is_expert in (("dp-cp", layout.dp * layout.cp, False), ("expert dp", experts, True)):
        for chunk in chunks:
            lines += _reduced(_trained(chunk, is_expert=is_expert), axis, ranks, settings)
    marked = [
        parameter
        for chunk in chunks
        for parameter in chunk.parameters()
        # All tp ranks hold such a factor, and each has seen its own part of the tokens.
        if parameter.requires_grad and vars(parameter).get("sequence_parallel")
    ]
    if layout.tp > 1 and layout.sequence_parallel and marked:
        size = sum(parameter.numel() * _gradient(parameter, settings) for parameter in marked)
        lines.append(
            _line("tp", "all-reduce", Phase.GRADIENT_REDUCTION, Owner.ADAPTER, size, ring(size, layout.tp) * 2, 1)
        )
    return tuple(_joined(lines))


def ring(size: int, ranks: int) -> int:
    """Return what one of `ranks` sends when a buffer of `size` bytes goes around once."""
    return size - size // ranks


def buffer_elements(sizes: Iterable[int], ranks: int, *, distributed_optimizer: bool) -> int:
    """Return the elements of megatron-core's gradient buffer for parameters of these sizes.

    The distributed optimizer cuts the buffer into equal parts, one for each of `ranks`, and wants
    each parameter to begin at a multiple of `ALIGNMENT`. megatron-core fills it from the last
    parameter on.
    """
    end = 0
    for size in reversed(list(sizes)):
        end = (_up(end, ALIGNMENT) if distributed_optimizer else end) + size
    return _up(end, lcm(ranks, 128)) if distributed_optimizer else end


def _trained(chunk: nn.Module, *, is_expert: bool) -> list[Any]:
    return [
        parameter
        for name, parameter in chunk.named_parameters()
        if parameter.requires_grad and of_expert(name, parameter) == is_expert
    ]


def _reduced(parameters: list[Any], axis: str, ranks: int, settings: DataParallelSettings) -> Iterator[Traffic]:
    """Yield the lines of the buffers that these parameters fill: one for each dtype."""
    if ranks == 1:
        return
    for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
        alike = [parameter for parameter in parameters if parameter.dtype == dtype]
        elements = buffer_elements(
            [parameter.numel() for parameter in alike], ranks, distributed_optimizer=settings.distributed_optimizer
        )
        gradients, weights = elements * _gradient(alike[0], settings), elements * alike[0].element_size()
        reduction, gather = Phase.GRADIENT_REDUCTION, Phase.PARAMETER_GATHER
        if settings.distributed_optimizer:
            yield _line(axis, "reduce-scatter", reduction, Owner.ADAPTER, gradients, ring(gradients, ranks), 1)
            yield _line(axis, "all-gather", gather, Owner.ADAPTER, weights, ring(weights, ranks), 1)
        else:
            yield _line(axis, "all-reduce", reduction, Owner.ADAPTER, gradients, ring(gradients, ranks) * 2, 1)


def _gradient(parameter: Any, settings: DataParallelSettings) -> int:
    return FP32 if settings.gradients_in_fp32 else int(parameter.element_size())


def _joined(lines: Iterable[Traffic]) -> Iterator[Traffic]:
    """Yield one line for each axis, collective and phase: a stage has one buffer for each chunk."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for line in lines:
        total = sums.setdefault((line.axis, line.collective, line.phase, line.owner), [0, 0, 0])
        total[:] = [total[0] + line.bytes, total[1] + line.sent_bytes, total[2] + line.calls]
    return (_line(*key, *total) for key, total in sums.items())


def _line(axis: str, collective: str, phase: Phase, owner: Owner, size: int, sent: int, calls: int) -> Traffic:
    return Traffic(axis=axis, collective=collective, phase=phase, owner=owner, bytes=size, sent_bytes=sent, calls=calls)


def _up(number: int, divisor: int) -> int:
    return ceil(number / divisor) * divisor
