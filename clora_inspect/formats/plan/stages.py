"""Describe the pipeline stages of a plan. Neighbours that hold the same amount share a line."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count
from clora_inspect.job.layer_ranges import fold

if TYPE_CHECKING:
    from clora_inspect.formats.glyphs import Glyphs
    from clora_inspect.job.plan import JobPlan, RankClass


def stage_lines(plan: JobPlan, glyphs: Glyphs) -> list[str]:
    """Return one line per run of stages with equal numbers of layers, adapters and parameters."""
    # `groupby` joins neighbours only: the line of a run names its first and last stage.
    runs = groupby(
        plan.rank_classes, key=lambda stage: (len(stage.layers), len(stage.placements), stage.trainable_params)
    )
    return [_line(list(run), glyphs) for _, run in runs]


def _line(run: list[RankClass], glyphs: Glyphs) -> str:
    first, last = run[0], run[-1]
    several = len(run) > 1
    each = " each" if several else ""
    adapters = len(first.placements)
    has_one_rank = first.first_rank == last.last_rank
    return f" {glyphs.dot} ".join(
        [
            f"pp{first.pp}..pp{last.pp}" if several else f"pp{first.pp}",
            _layers(run),
            f"{count(adapters)} {'adapter' if adapters == 1 else 'adapters'}{each}",
            f"{count(first.trainable_params)} params per rank",
            f"rank {first.first_rank}" if has_one_rank else f"ranks {first.first_rank}..{last.last_rank}",
        ]
    )


def _layers(run: list[RankClass]) -> str:
    number = len(run[0].layers)
    if not number:
        return "no layers"
    layers = fold(layer for stage in run for layer in stage.layers)
    noun = "layer" if number == 1 else "layers"
    return f"{number} {noun} each, {layers}" if len(run) > 1 else f"{noun} {layers}"
