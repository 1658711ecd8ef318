"""Put a candidate together from the costs of its layers: peak memory and time of each stage. Pure.

Time is an estimate under stated assumptions, to order candidates; memory decides what fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.sources.pipeline_split import stage_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from clora_inspect.fit.candidates import Batch, Candidate
    from clora_inspect.fit.unit import Cost, Unit
    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition

GRADIENT = 4
"""Bytes of a gradient, accumulated in fp32."""
OPTIMIZER = 12
"""Bytes of Adam's states for one parameter, spread by the distributed optimizer."""


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
    """Bytes that a rank sends in a step: the stage that sends most."""
    bubble: float
    """Share of the step in which a rank waits for the pipeline."""
    seconds: float
    """Of a step."""


def estimate(candidate: Candidate, unit: Unit, definition: ModelDefinition, batch: Batch, machine: Machine) -> Estimate:
    """Return the memory and time of `candidate`, whose layers cost as `unit` says."""
    layout, micro_batches = candidate.layout, candidate.micro_batches(batch)
    chunks = chunks_of(definition, layout, unit)
    stages = [Stage(candidate, unit, stage, chunks[stage :: layout.pp]) for stage in range(layout.pp)]
    peaks = [stage.peak_bytes(micro_batches) for stage in stages]
    slowest = max(stage.seconds(machine) for stage in stages)
    waiting = (layout.pp - 1) / layout.vpp
    return Estimate(
        candidate,
        peak_bytes=max(peaks),
        fullest_stage=peaks.index(max(peaks)),
        sent_bytes=max(stage.sent_bytes for stage in stages) * micro_batches,
        bubble=waiting / (micro_batches + waiting),
        seconds=slowest * (micro_batches + waiting) + max(stage.step_seconds(machine) for stage in stages),
    )


def chunks_of(definition: ModelDefinition, layout: Layout, unit: Unit) -> list[Sequence[Cost]]:
    """Return the layers of each virtual stage, in the order in which tokens pass them."""
    split = {**definition.config, **definition.split(layout).fields}
    blocks = definition.kind.blocks_per_layer
    counts = stage_counts(len(unit.layers) // blocks, split, layout)
    ends = [blocks * sum(counts[: number + 1]) for number in range(len(counts))]
    return [unit.layers[end - blocks * count : end] for end, count in zip(ends, counts, strict=True)]


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage of a candidate."""

    candidate: Candidate
    unit: Unit
    number: int
    chunks: Sequence[Sequence[Cost]]
    """The layers of each of its chunks."""

    def peak_bytes(self, micro_batches: int) -> int:
        layout, costs = self.candidate.layout, self.costs
        experts_dp = max(layout.world // (layout.pp * layout.ep * layout.expert_tp), 1)
        trained, trained_experts = (
            sum(cost.trained for cost in costs),
            sum(cost.trained_experts for cost in costs),
        )
        static = (
            sum(cost.weights for cost in costs)
            + GRADIENT * (trained + trained_experts)
            + OPTIMIZER * (trained // (layout.dp * layout.cp) + trained_experts // experts_dp)
        )
        kept = sum(self._kept(self.chunks[chunk]) for chunk in self.in_flight(micro_batches))
        # What the loss keeps is gone when the backward reaches the layers. There the gradients of
        # the largest tensor and of the states come on top. A layer that is recomputed exists as a
        # whole while its backward runs.
        layers = [cost for chunk in self.chunks for cost in chunk]
        again = max((cost.activations for cost in layers), default=0) if self._recomputes else 0
        in_layers = again + _largest(layers) + self.unit.states
        at_the_loss = self.unit.loss_peak if self.number == self.candidate.layout.pp - 1 else 0
        return static + self.candidate.rows * (kept + max(at_the_loss, in_layers))

    def seconds(self, machine: Machine) -> float:
        """Return the time of one micro-batch. Communication hides behind nothing."""
        forwards = 2 if self._recomputes else 1
        operations = sum(forwards * cost.forward + cost.backward for cost in self.costs)
        moved = sum(size / _bandwidth(axis, self.candidate.layout, machine) for axis, size in self._sent)
        return self.candidate.rows * (operations / machine.flops_per_s + moved)

    def step_seconds(self, machine: Machine) -> float:
        """Return the time of what is exchanged once a step."""
        trained = sum(cost.trained for cost in self.costs) + sum(cost.trained_experts for cost in self.costs)
        ranks = self.candidate.layout.dp * self.candidate.layout.cp
        moved = (GRADIENT + 2) * trained * (ranks - 1) / ranks
        return moved / _bandwidth("dp", self.candidate.layout, machine)

    @property
    def sent_bytes(self) -> int:
        """Bytes that a rank sends for a micro-batch."""
        return self.candidate.rows * sum(size for _, size in self._sent)

    @property
    def _recomputes(self) -> bool:
        return self.candidate.recompute == "full"

    @property
    def _ends(self) -> list[Cost]:
        first, last = self.number == 0, self.number == self.candidate.layout.pp - 1
        return [self.unit.embedding] * first + [self.unit.output] * last

    @property
    def costs(self) -> list[Cost]:
        return [*(cost for chunk in self.chunks for cost in chunk), *self._ends]

    @property
    def _sent(self) -> Iterable[tuple[str, int]]:
        for cost in self.costs:
            for sent in (cost.sent_forward, cost.sent_forward if self._recomputes else {}, cost.sent_backward):
                yield from sent.items()
        layout = self.candidate.layout
        # Each chunk hands its states on, and their gradients back, but for the two ends.
        ends = (self.number == 0) + (self.number == layout.pp - 1)
        yield "pp", self.unit.states * (2 * layout.vpp - ends) if layout.pp > 1 else 0

    def _kept(self, layers: Sequence[Cost]) -> int:
        if self._recomputes:
            return self.unit.states * len(layers)
        return sum(cost.activations for cost in layers)

    def in_flight(self, micro_batches: int) -> list[int]:
        """Return the numbers of the chunks whose activations are kept at the peak, one for each
        forward that waits for its backward.

        megatron-core's schedules run `warm_up` forwards before the first backward.
        """
        layout = self.candidate.layout
        behind = layout.pp - self.number - 1
        if layout.vpp == 1:
            return [0] * min(behind + 1, micro_batches)
        warm_up = 2 * behind + (layout.vpp - 1) * layout.pp
        count = min(warm_up + 1, micro_batches * layout.vpp)
        # Each chunk takes as many micro-batches as there are stages, then the next one does.
        return [number // layout.pp % layout.vpp for number in range(count)]


def _largest(costs: Iterable[Cost]) -> int:
    return max((cost.largest for cost in costs), default=0)


def _bandwidth(axis: str, layout: Layout, machine: Machine) -> float:
    """Return the bandwidth of the slowest link within a group of `axis`."""
    return machine.bytes_in_node if _span(axis, layout) <= machine.gpus_per_node else machine.bytes_between_nodes


def _span(axis: str, layout: Layout) -> int:
    """Return the ranks from the first to the last of a group, in megatron-core's default order."""
    width = layout.world // layout.pp
    spans: Mapping[str, int] = {
        "tp": layout.tp,
        "tp-cp": layout.tp * layout.cp,
        "cp": layout.tp * layout.cp,
        "etp": layout.expert_tp,
        "ep": layout.expert_tp * layout.ep,
        "etp-ep": layout.expert_tp * layout.ep,
        "pp": layout.world,
    }
    return spans.get(axis, width)
