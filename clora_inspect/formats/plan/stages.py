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
        plan.rank_classes, key=lambda stage: (_amounts(plan, stage), len(stage.placements), stage.trainable_params)
    )
    return [_line(plan, list(run), glyphs) for _, run in runs]


def _amounts(plan: JobPlan, stage: RankClass) -> list[int]:
    """Return the number of layers of each tower that a stage holds."""
    held = stage.layers_by_tower(plan.towers)
    return [len(held.get(tower, ())) for tower in plan.towers.towers]


def _line(plan: JobPlan, run: list[RankClass], glyphs: Glyphs) -> str:
    first, last = run[0], run[-1]
    several = len(run) > 1
    each = " each" if several else ""
    adapters = len(first.placements)
    has_one_rank = first.first_rank == last.last_rank
    return f" {glyphs.dot} ".join(
        [
            f"pp{first.pp}..pp{last.pp}" if several else f"pp{first.pp}",
            _layers([plan.layers_of(stage) for stage in run]),
            *_other_layers(plan, run),
            f"{count(adapters)} {'adapter' if adapters == 1 else 'adapters'}{each}",
            f"{count(first.trainable_params)} params per rank",
            f"rank {first.first_rank}" if has_one_rank else f"ranks {first.first_rank}..{last.last_rank}",
        ]
    )


def _layers(held: list[tuple[int, ...]]) -> str:
    """Describe the layers of each stage of a run, which are equally many."""
    number = len(held[0])
    if not number:
        return "no layers"
    layers = fold(layer for stage in held for layer in stage)
    noun = "layer" if number == 1 else "layers"
    return f"{number} {noun} each, {layers}" if len(held) > 1 else f"{noun} {layers}"


def _other_layers(plan: JobPlan, run: list[RankClass]) -> list[str]:
    """Describe the layers of vision and audio towers, such as `vision_model layers {0..1}`."""
    held = [stage.layers_by_tower(plan.towers) for stage in run]
    return [
        f"{tower.path} {_layers([stage[tower] for stage in held])}"
        for tower in plan.towers.towers
        if not plan.towers.is_main(tower) and tower in held[0]
    ]
