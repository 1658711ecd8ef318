"""List every layout of a number of GPUs, with micro-batch and recomputation, that a model can have.
Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clora.errors import CloraError
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clora_inspect.sources.definition import ModelDefinition

MICRO_BATCHES = (1, 2, 4, 8)
"""Rows of a micro-batch that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The settings that every candidate has."""

    gpus: int
    seq_length: int
    rows: int
    """Rows of a step over all ranks (Megatron-LM's `--global-batch-size`)."""
    packed: int | None = None
    """Sequences in a row, which is a micro-batch of its own; None if a row is one sequence."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout, and the two settings that trade memory for time."""

    layout: Layout
    rows: int
    """Rows of a micro-batch."""
    recompute: str
    """Recomputation, as `job.recompute` writes it."""

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


def recomputes(definition: ModelDefinition) -> tuple[str, ...]:
    """Return the settings of recomputation that are tried for a model, from the cheapest on."""
    selective = "selective:moe" if definition.has_experts else "selective:mlp"
    full = ("full",) if definition.kind.has_full_recompute else ()
    return ("none", "selective", selective, *full)


def candidates(
    definition: ModelDefinition, batch: Batch, refused: Refused, settings: Sequence[str]
) -> Iterator[Candidate]:
    """Yield every candidate. Those that cannot be built are counted in `refused`.

    Sequence parallelism is on where tp > 1: it sends the same bytes and keeps fewer.

    Args:
        definition: the model.
        batch: the settings that all have.
        refused: gets the others, by reason.
        settings: of recomputation.
    """
    each = len(MICRO_BATCHES) * len(settings)
    for layout in _layouts(definition, batch.gpus):
        reason = _cannot_be_built(definition, layout) or _cannot_split(layout, batch)
        if reason:
            refused.add(reason, each)
            continue
        for rows in MICRO_BATCHES:
            reason = _cannot_batch(layout, rows, batch)
            if reason:
                refused.add(reason, len(settings))
                continue
            for recompute in settings:
                yield Candidate(layout, rows, recompute)


def fault(definition: ModelDefinition, layout: Layout, rows: int, batch: Batch) -> str | None:
    """Return why a layout cannot be built or run with micro-batches of `rows`, None if it can."""
    return _cannot_be_built(definition, layout) or _cannot_split(layout, batch) or _cannot_batch(layout, rows, batch)


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
        problem, _, _ = str(error).partition(". ")
        # The reason without the size, so that all sizes of an axis count together.
        return f"{found[1]} does not divide the model" if "divide" in problem else f"{found[1]}: {_after(problem)}"
    return None


def _after(problem: str) -> str:
    """Return a problem without the axis and the size that it begins with."""
    return re.sub(r"^\w+ = \d+( \([^)]*\))?:? ", "", problem).rstrip(".")


def _cannot_split(layout: Layout, batch: Batch) -> str | None:
    # Load balancing of causal attention gives each rank two pieces of the sequence.
    pieces = 2 * layout.cp if layout.cp > 1 else 1
    if batch.seq_length % pieces:
        return "cp does not divide the sequence"
    if batch.seq_length % (pieces * (layout.tp if layout.sequence_parallel else 1)):
        return "cp and tp do not divide the sequence" if layout.cp > 1 else "tp does not divide the sequence"
    if batch.packed is not None and batch.seq_length % batch.packed:
        return "packed does not divide the row"
    if batch.packed is not None and batch.seq_length % (pieces * batch.packed):
        return "cp does not divide the packed sequences"
    return None


def _cannot_batch(layout: Layout, rows: int, batch: Batch) -> str | None:
    if batch.packed is not None and rows > 1:
        return "packed sequences stand in one row"
    if batch.rows % (layout.dp * rows):
        return "dp and the micro-batch do not divide the global batch"
    count = batch.rows // (layout.dp * rows)
    if layout.vpp > 1 and count % layout.pp:
        return "an interleaved pipeline wants as many micro-batches as stages, or a multiple"
    return None
