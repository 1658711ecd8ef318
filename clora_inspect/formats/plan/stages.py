"""The pipeline stages of a plan in words. Neighbouring stages that hold the same amount share a
line.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count
from clora_inspect.job.layer_ranges import fold

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.formats.glyphs import Glyphs
    from clora_inspect.job.plan import JobPlan, RankClass


@dataclass(frozen=True, slots=True)
class StageFacts:
    pp: int
    layers: tuple[int, ...]
    """Global numbers of the layers on the stage."""
    placements: int
    trainable_params: int
    """Trainable parameters of one rank of the stage."""
    ranks: tuple[int, int]
    """First and last global rank of the stage."""


def stage_lines(plan: JobPlan, glyphs: Glyphs) -> list[str]:
    """Return one line per run of stages with equal numbers of layers, adapters and parameters."""
    facts = [_facts(rank_class) for rank_class in plan.rank_classes]
    runs = [
        list(run)
        for _, run in groupby(facts, key=lambda stage: (len(stage.layers), stage.placements, stage.trainable_params))
    ]
    return [_line(run, glyphs) for run in runs]


def _facts(rank_class: RankClass) -> StageFacts:
    numbers = {placement.global_layer for placement in rank_class.placements}
    numbers |= {skip.global_layer for skip in rank_class.skipped}
    return StageFacts(
        pp=rank_class.pp,
        layers=tuple(sorted(number for number in numbers if number is not None)),
        placements=len(rank_class.placements),
        trainable_params=rank_class.trainable_params,
        ranks=(rank_class.members[0][0], rank_class.members[-1][1]),
    )


def _line(run: list[StageFacts], glyphs: Glyphs) -> str:
    first, last = run[0], run[-1]
    several = len(run) > 1
    each = " each" if several else ""
    return f" {glyphs.dot} ".join(
        [
            f"pp{first.pp}..pp{last.pp}" if several else f"pp{first.pp}",
            _layers(run),
            f"{count(first.placements)} {'adapter' if first.placements == 1 else 'adapters'}{each}",
            f"{count(first.trainable_params)} params per rank",
            f"ranks {first.ranks[0]}..{last.ranks[1]}" if first.ranks[0] < last.ranks[1] else f"rank {first.ranks[0]}",
        ]
    )


def _layers(run: list[StageFacts]) -> str:
    layers = fold(_all_layers(run))
    number = len(run[0].layers)
    if not number:
        return "no layers"
    noun = "layer" if number == 1 else "layers"
    return f"{number} {noun} each, {layers}" if len(run) > 1 else f"{noun} {layers}"


def _all_layers(run: Iterable[StageFacts]) -> list[int]:
    return [layer for stage in run for layer in stage.layers]
