"""Put a candidate together from the costs of its layers: peak memory and time of each stage. Pure.

Memory is counted as `plan --memory` counts it, and decides what fits. Time is an estimate under
stated assumptions, to order candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.cost.in_flight import ChunkBytes, chunk_bytes, warmup_forwards, worst_moment
from clora_inspect.cost.span import Span, joined
from clora_inspect.cost.static import WORKSPACE, buffer_part, gradient_bytes, gradient_size, optimizer_bytes
from clora_inspect.job.workload import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clora_inspect.fit.candidates import Batch, Candidate
    from clora_inspect.fit.stage import Stage, Stages
    from clora_inspect.fit.unit import Cost, Unit
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.workload import Workload


@dataclass(frozen=True, slots=True)
class Machine:
    """Speeds that a time is estimated with. Bandwidths are those of one GPU, in one direction."""

    gpus_per_node: int = 8
    flops_per_s: float = 400e12
    """The speed of matrix products on an H100 in bf16."""
    bytes_in_node: float = 350e9
    bytes_between_nodes: float = 45e9


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory and time of a candidate."""

    candidate: Candidate
    peak_bytes: int
    """Of the fullest stage."""
    fullest_stage: int
    sent_bytes: int
    """Bytes that a rank sends in a step, what is exchanged once a step included: the stage that
    sends most.
    """
    bubble: float
    """Share of the step in which a rank waits for the pipeline."""
    seconds: float
    """Of a step."""


class Estimator:
    """Estimates candidates that split a layer in the same way, and recompute the same."""

    def __init__(
        self,
        unit: Unit,
        stages: Stages,
        batch: Batch,
        machine: Machine,
        workload: Workload,
        group: int | None = None,
    ) -> None:
        """Estimate with the costs of `unit`.

        Args:
            unit: what the parts of the model cost.
            stages: which layers a stage has.
            batch: the rows of a step.
            machine: the speeds.
            workload: how optimizer states are kept, and the allowance.
            group: micro-batches that a chunk runs in a row; None for as many as stages.
        """
        self._unit = unit
        self._stages = stages
        self._batch = batch
        self._machine = machine
        self._workload = workload
        self._group = group
        # By layout: seconds of a row and once a step; for each stage the bytes that are sent so.
        self._times: dict[object, tuple[float, float, list[tuple[int, int]]]] = {}
        self._static: dict[object, list[int]] = {}
        self._chunks: dict[tuple[Stage, int], ChunkBytes] = {}

    def estimate(self, candidate: Candidate) -> Estimate:
        """Return the memory and time of `candidate`."""
        peaks = [
            static + self._peak(candidate, stage)
            for stage, static in zip(self._stages.of(candidate.layout), self._statics(candidate.layout), strict=True)
        ]
        fullest = peaks.index(max(peaks))
        return Estimate(
            candidate,
            peak_bytes=peaks[fullest],
            fullest_stage=self._stages.of(candidate.layout)[fullest].number,
            sent_bytes=self._sent(candidate),
            bubble=_waiting(candidate) / (candidate.micro_batches(self._batch) + _waiting(candidate)),
            seconds=self.seconds(candidate),
        )

    def seconds(self, candidate: Candidate) -> float:
        """Return the time of a step. Communication hides behind nothing."""
        of_row, of_step, _ = self._row(candidate.layout)
        return candidate.rows * of_row * (candidate.micro_batches(self._batch) + _waiting(candidate)) + of_step

    def _sent(self, candidate: Candidate) -> int:
        rows = candidate.rows * candidate.micro_batches(self._batch)
        return max(rows * of_row + of_step for of_row, of_step in self._row(candidate.layout)[2])

    def least_bytes(self, candidate: Candidate) -> int:
        """Return less than the peak: what the first stage keeps when its first backward begins, and
        what the last one needs for one micro-batch.
        """
        layout, found = candidate.layout, []
        for stage, static in zip(self._stages.of(layout), self._statics(layout), strict=True):
            if stage.is_first or stage.is_last:
                needs = [self._needs(stage, chunk) for chunk in range(len(stage.chunks))]
                steps = candidate.micro_batches(self._batch)
                kept = sum(needs[chunk].kept for chunk in in_flight(layout, stage, steps, self._group))
                found.append(static + candidate.rows * max(kept, *(each.backward_peak for each in needs)))
        return max(found)

    def _peak(self, candidate: Candidate, stage: Stage) -> int:
        """Return the bytes of one stage at its worst moment, without what it holds all the time."""
        needs = [self._needs(stage, chunk) for chunk in range(len(stage.chunks))]
        worst = worst_moment(
            needs,
            stage=stage.number,
            stages=candidate.layout.pp,
            micro_batches=candidate.micro_batches(self._batch),
            group=self._group,
            states=self._unit.states,
        )
        unit = self._unit
        held = unit.left + len(stage.chunks) * unit.embedding.held + unit.output.held * stage.is_last
        held += sum(count * unit.kinds[kind].held for kind, count in stage.counts)
        return candidate.rows * (worst.bytes + held + unit.overlap)

    def _needs(self, stage: Stage, number: int) -> ChunkBytes:
        key = stage, number
        if key not in self._chunks:
            self._chunks[key] = self._chunk_bytes(stage, number)
        return self._chunks[key]

    def _chunk_bytes(self, stage: Stage, number: int) -> ChunkBytes:
        """Return what one row of a chunk needs."""
        unit = self._unit
        layers = [unit.kinds[kind] for kind in stage.chunks[number]]
        is_first = stage.is_first and number == 0
        is_last = stage.is_last and number == len(stage.chunks) - 1
        gradients = Span(unit.states, unit.states)
        forward = [cost.forward for cost in layers]
        backward = [unit.output.backward if is_last else gradients, *(cost.backward for cost in reversed(layers))]
        # Every other chunk gets its first states from the one before it.
        forward.insert(0, unit.embedding.forward if is_first else Span(unit.states, unit.states))
        if is_last:
            forward.append(unit.output.forward)
        else:
            forward.append(Span(-unit.freed))
        # Only the model that has made the first states lets them go when its forward ends.
        if is_first != is_last:
            forward.append(Span(-unit.released if is_first else unit.released))
        behind = sum(cost.behind for cost in layers)
        return chunk_bytes(joined(forward), joined(backward), behind)

    def _statics(self, layout: Layout) -> list[int]:
        """Return for each stage the bytes that it holds all the time."""
        key = layout.pp, layout.vpp
        if key not in self._static:
            unit, workload = self._unit, self._workload
            kinds = [self._held(cost, layout) for cost in unit.kinds]
            first, last = self._held(unit.embedding, layout), self._held(unit.output, layout)
            copied = unit.copied if layout.pp > 1 else 0
            always = WORKSPACE + round(workload.memory_allowance_gib * GIB)
            self._static[key] = [
                always
                + sum(count * kinds[kind] for kind, count in stage.counts)
                + first * stage.is_first
                + (last + copied) * stage.is_last
                for stage in self._stages.of(layout)
            ]
        return self._static[key]

    def _held(self, cost: Cost, layout: Layout) -> int:
        states = sum(
            count * (gradient_bytes(trained, self._workload) + optimizer_bytes(trained, layout, self._workload))
            for trained, count in cost.trained.items()
        )
        return cost.weights + cost.expert_weights + cost.buffers + states

    def _row(self, layout: Layout) -> tuple[float, float, list[tuple[int, int]]]:
        """Return the seconds of a row, and those of what is exchanged once a step, of the stages
        that take longest; and the bytes that each stage sends for a row and once a step.
        """
        key = layout.pp, layout.vpp
        if key not in self._times:
            parts = [self._unit.embedding, self._unit.output, *self._unit.kinds]
            seconds = [self._part_seconds(part, layout) for part in parts]
            sent = [sum(part.sent.values()) for part in parts]
            exchanged = [self._exchanged(part, layout) for part in parts]
            of_step = [self._seconds_to_send(each, layout) for each in exchanged]
            sent_of_step = [sum(each.values()) for each in exchanged]
            stages = self._stages.of(layout)
            handed = [self._handed_on(stage, layout) for stage in stages]
            between = _bandwidth("pp", layout, self._machine)
            self._times[key] = (
                max(_summed(seconds, stage) + size / between for stage, size in zip(stages, handed, strict=True)),
                max(_summed(of_step, stage) for stage in stages),
                [
                    (round(_summed(sent, stage)) + size, round(_summed(sent_of_step, stage)))
                    for stage, size in zip(stages, handed, strict=True)
                ],
            )
        return self._times[key]

    def _part_seconds(self, cost: Cost, layout: Layout) -> float:
        return cost.operations / self._machine.flops_per_s + self._seconds_to_send(cost.sent, layout)

    def _seconds_to_send(self, sent: Mapping[str, float], layout: Layout) -> float:
        return sum(size / _bandwidth(axis, layout, self._machine) for axis, size in sent.items())

    def _handed_on(self, stage: Stage, layout: Layout) -> int:
        """Return the bytes that a stage sends to others for a row: each chunk hands its states on,
        and their gradients back, but for the two ends.
        """
        if layout.pp == 1:
            return 0
        return self._unit.states * (2 * layout.vpp - stage.is_first - stage.is_last)

    def _exchanged(self, cost: Cost, layout: Layout) -> dict[str, float]:
        """Return the bytes that a rank sends each step, by axis: gradients of what is trained, and
        new weights with the distributed optimizer.
        """
        dp = tp = 0.0
        workload, stage = self._workload, layout.world // layout.pp
        for trained, count in cost.trained.items():
            ranks = stage // (layout.ep * layout.expert_tp if trained.is_expert else layout.tp)
            gradients = count * gradient_bytes(trained, workload)
            weights = count * buffer_part(trained, workload) * trained.element_size
            around = gradients + weights if workload.use_distributed_optimizer else 2 * gradients
            dp += around * (ranks - 1) / ranks
            if trained.is_marked:
                alone = count * trained.elements * gradient_size(trained, workload)
                tp += 2 * alone * (layout.tp - 1) / layout.tp
        return {"dp": dp, "tp": tp}


def _waiting(candidate: Candidate) -> float:
    """Return the micro-batches that a rank waits for in a step."""
    return (candidate.layout.pp - 1) / candidate.layout.vpp


def _summed(parts: list[float] | list[int], stage: Stage) -> float:
    """Return the sum over a stage of numbers of the embedding, the output and each kind."""
    ends = parts[0] * stage.is_first + parts[1] * stage.is_last
    return ends + sum(count * parts[2 + kind] for kind, count in stage.counts)


def in_flight(layout: Layout, stage: Stage, micro_batches: int, group: int | None = None) -> Iterator[int]:
    """Yield the chunk of each forward of a stage before its first backward. A chunk runs `group`
    micro-batches before the next one does; None for as many as there are stages.
    """
    count = min(warmup_forwards(layout.vpp, stage.number, layout.pp, group) + 1, micro_batches * layout.vpp)
    for number in range(count):
        yield number // (group or layout.pp) % layout.vpp


def _bandwidth(axis: str, layout: Layout, machine: Machine) -> float:
    """Return the bandwidth of the slowest link within a group of `axis`."""
    return machine.bytes_in_node if _span(axis, layout) <= machine.gpus_per_node else machine.bytes_between_nodes


def _span(axis: str, layout: Layout) -> int:
    """Return the ranks from the first to the last of a group, in megatron-core's default order."""
    spans: Mapping[str, int] = {
        "tp": layout.tp,
        "tp-cp": layout.tp * layout.cp,
        "cp": layout.tp * layout.cp,
        "etp": layout.expert_tp,
        "ep": layout.expert_tp * layout.ep,
        "etp-ep": layout.expert_tp * layout.ep,
        "pp": layout.world,
    }
    return spans.get(axis, layout.world // layout.pp)
