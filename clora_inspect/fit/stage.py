"""The kinds of stages that a pipeline has: which layers, and which ends. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

from clora_inspect.sources.pipeline_split import stage_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition


@dataclass(frozen=True, slots=True)
class Stage:
    """A pipeline stage, which stands for later ones with equal chunks: they keep no more."""

    number: int
    chunks: tuple[tuple[int, ...], ...]
    """For each of its chunks the kinds of its layers, as indices."""
    is_first: bool
    is_last: bool
    counts: tuple[tuple[int, int], ...]
    """Each kind of layer, and the number of its layers."""


class Stages:
    """The stages of one model for each layout."""

    def __init__(self, definition: ModelDefinition, kinds: Sequence[int]) -> None:
        """Begin with no layout.

        Args:
            definition: the model.
            kinds: for each of its layers, as megatron-core counts them, its kind.
        """
        self._definition = definition
        self._kinds = tuple(kinds)
        self._found: dict[tuple[int, int], tuple[Stage, ...]] = {}

    def of(self, layout: Layout) -> tuple[Stage, ...]:
        """Return the different stages of `layout`, in order."""
        key = layout.pp, layout.vpp
        if key not in self._found:
            chunks = self._chunks(layout)
            different: dict[object, Stage] = {}
            for number in range(layout.pp):
                held = tuple(chunks[number :: layout.pp])
                counts = tuple(Counter(chain.from_iterable(held)).items())
                stage = Stage(number, held, number == 0, number == layout.pp - 1, counts)
                different.setdefault((stage.chunks, stage.is_first, stage.is_last), stage)
            self._found[key] = tuple(different.values())
        return self._found[key]

    def _chunks(self, layout: Layout) -> list[tuple[int, ...]]:
        """Return the layers of each virtual stage, in the order in which tokens pass them."""
        split = {**self._definition.config, **self._definition.split(layout).fields}
        blocks = self._definition.kind.blocks_per_layer
        counts = stage_counts(len(self._kinds) // blocks, split, layout)
        ends = list(accumulate(counts, initial=0))
        return [self._kinds[blocks * start : blocks * end] for start, end in pairwise(ends)]
