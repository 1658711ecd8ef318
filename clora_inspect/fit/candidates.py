"""List every layout of a number of GPUs, with micro-batch and recomputation, that a model can have.
Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from clora.errors import CloraError
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.sources.definition import ModelDefinition

Recompute = Literal["none", "full"]
"""Keep all activations, or only the input of each layer (`recompute_granularity = full`)."""

MICRO_BATCHES = (1, 2, 4, 8)
"""Rows of a micro-batch that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The settings that every candidate has."""

    gpus: int
    seq_length: int
    rows: int
    """Rows of a step over all ranks (Megatron-LM's `--global-batch-size`)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout, and the two settings that trade memory for time."""

    layout: Layout
    rows: int
    """Rows of a micro-batch."""
    recompute: Recompute

    def micro_batches(self, batch: Batch) -> int:
        """Return the micro-batches of a step on each pipeline."""
        return batch.rows // (self.layout.dp * self.rows)

    def settings(self) -> dict[str, str]:
        """Return option -> value, for all that distinguishes candidates."""
        sizes = {**self.layout.sizes(), "vpp": self.layout.vpp}
        options = {f"--{axis}": str(size) for axis, size in sizes.items()}
        return options | {"--micro-batch-size": str(self.rows), "--recompute": self.recompute}

    def changes(self, other: Candidate) -> dict[str, str]:
        """Return the options by which this one differs from `other`."""
        theirs = other.settings()
        return {option: value for option, value in self.settings().items() if theirs[option] != value}


@dataclass
class Refused:
    """The number of candidates that cannot be built or run, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, count: int = 1) -> None:
        self.reasons[reason] += count


def candidates(definition: ModelDefinition, batch: Batch, refused: Refused) -> Iterator[Candidate]:
    """Yield every candidate. Those that cannot be built are counted in `refused`.

    Sequence parallelism is on where tp > 1: it sends the same bytes and keeps fewer.
    """
    each = len(MICRO_BATCHES) * 2
    for layout in _layouts(definition, batch.gpus):
        reason = _cannot_be_built(definition, layout) or _cannot_split(layout, batch)
        if reason:
            refused.add(reason, each)
            continue
        for rows in MICRO_BATCHES:
            reason = _cannot_batch(layout, rows, batch)
            if reason:
                refused.add(reason, 2)
                continue
            yield Candidate(layout, rows, "none")
            yield Candidate(layout, rows, "full")


def _layouts(definition: ModelDefinition, gpus: int) -> Iterator[Layout]:
    layers = definition.built_layers
    for pp in divisors(gpus):
        if pp > layers:
            continue
        width = gpus // pp
        chunks = [vpp for vpp in divisors(layers) if vpp == 1 or (pp > 1 and layers % (pp * vpp) == 0)]
        for tp in divisors(width):
            for cp in divisors(width // tp):
                for ep, etp in _expert_sizes(definition, width):
                    for vpp in chunks:
                        yield Layout(tp=tp, pp=pp, vpp=vpp, cp=cp, ep=ep, etp=etp, world_size=gpus)


def _expert_sizes(definition: ModelDefinition, width: int) -> Iterator[tuple[int, int]]:
    if not definition.has_experts:
        yield 1, 1
        return
    for ep in divisors(width):
        for etp in divisors(width // ep):
            yield ep, etp


def divisors(number: int) -> list[int]:
    """Return the divisors of `number` in ascending order."""
    return [size for size in range(1, number + 1) if number % size == 0]


_AXIS = re.compile(r"(tp|pp|vpp|cp|ep|etp|world_size)\b")


def _cannot_be_built(definition: ModelDefinition, layout: Layout) -> str | None:
    try:
        definition.check(layout)
    except CloraError as error:
        found = _AXIS.match(str(error))
        if found is None:
            return "the layers do not divide over the stages"
        return f"{found[1]} does not divide the model"
    return None


def _cannot_split(layout: Layout, batch: Batch) -> str | None:
    # Load balancing of causal attention gives each rank two pieces of the sequence.
    pieces = (2 * layout.cp if layout.cp > 1 else 1) * (layout.tp if layout.sequence_parallel else 1)
    if batch.seq_length % pieces:
        return "cp and tp do not divide the sequence"
    return None


def _cannot_batch(layout: Layout, rows: int, batch: Batch) -> str | None:
    if batch.rows % (layout.dp * rows):
        return "dp and the micro-batch do not divide the global batch"
    count = batch.rows // (layout.dp * rows)
    if layout.vpp > 1 and count % layout.pp:
        return "an interleaved pipeline wants as many micro-batches as stages, or a multiple"
    return None
