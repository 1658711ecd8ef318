"""The Ranks pane: the cluster as a heat map with one row per pipeline stage and one cell per rank,
shaded by trainable parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.plan.memory import adapter_cost
from clora_inspect.formats.quantities import count, size
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.memory import weight_bytes
from clora_inspect.tui.panes.coordinates import class_of, coordinates
from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, labelled, line, width_of, wrapped

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan, RankClass
    from clora_inspect.tui.panes.scene import Scene

SHADES = ("·", "░", "▒", "▓", "█")
"""Cells from no trainable parameter to the most of any rank."""

TONES = (Tone.DIM, Tone.HEAT_1, Tone.HEAT_2, Tone.HEAT_3, Tone.HEAT_4)


def ranks_lines(scene: Scene, width: int) -> list[Line]:
    """Return the pane's lines: the map, the meaning of its shades, and the chosen rank."""
    plan = scene.plan
    layout = plan.layout
    per_stage = layout.world // layout.pp
    # Six cells stand before the map: the name of the stage and the mark of the chosen one.
    bundle, cells_per_block = _cells(layout.tp, per_stage, width - 6)
    heading = f"{count(layout.world)} ranks" if layout.world > 1 else "1 rank"
    lines = [
        line(Span(heading, Tone.TITLE), Span("  one row per pipeline stage, shaded by trainable parameters", Tone.DIM)),
        line(Span(_cell_words(layout.tp, bundle), Tone.DIM)),
        BLANK,
    ]
    most = max((each.trainable_params for each in plan.rank_classes), default=0)
    lines += [_stage(scene, each, most, bundle, cells_per_block, width) for each in plan.rank_classes]
    lines += [BLANK, *_legend(plan, most, width), BLANK, *_chosen(scene, width)]
    return lines


def _cells(tp: int, per_stage: int, room: int) -> tuple[int, int]:
    """Return how many ranks a cell stands for, and how many cells stand between two gaps.

    A cell is one rank if all of a stage fit into `room` cells with a gap between tp groups. If not,
    it is a tp group, or as many tp groups (a power of two) as are needed.
    """
    cells_in_line = per_stage + (per_stage - 1) // tp if tp > 1 else per_stage
    if cells_in_line <= room:
        return 1, tp if tp > 1 else per_stage
    bundle = tp
    while per_stage // bundle > room:
        bundle *= 2
    return bundle, max(per_stage // bundle, 1)


def _cell_words(tp: int, bundle: int) -> str:
    if bundle == 1:
        return "one cell per rank" + (f", in groups of tp{tp}" if tp > 1 else "")
    return f"one cell for {bundle} ranks" + (f", a tp{tp} group" if bundle == tp else "")


def _stage(scene: Scene, rank_class: RankClass, most: int, bundle: int, per_block: int, width: int) -> Line:
    first, last = rank_class.first_rank, rank_class.last_rank
    shade = _shade(rank_class.trainable_params, most)
    here = scene.rank is not None and first <= scene.rank <= last
    spans = [
        Span(f"pp{rank_class.pp}".ljust(5), Tone.TITLE if here else Tone.PLAIN),
        Span("▸" if here else " ", Tone.TITLE if here else Tone.PLAIN),
    ]
    for cell, rank in enumerate(range(first, last + 1, bundle)):
        if cell and cell % per_block == 0:
            spans.append(Span(" "))
        chosen = scene.rank is not None and rank <= scene.rank < rank + bundle
        link = Link(Target.RANK, str(rank))
        # The chosen cell has a sign of its own, because `NO_COLOR` takes the tone away.
        spans.append(Span("◆", Tone.CHOSEN, link) if chosen else Span(SHADES[shade], TONES[shade], link))
    words = f"  {count(rank_class.trainable_params)}  {_layers(scene.plan, rank_class)}"
    fits = width_of(spans) + len(words) <= width
    return line(*spans, Span(words, Tone.DIM)) if fits else line(*spans)


def _layers(plan: JobPlan, rank_class: RankClass) -> str:
    layers = plan.layers_of(rank_class)
    return f"layers {fold(layers)}" if layers else "no layers"


def _shade(params: int, most: int) -> int:
    """Return 0 for no parameter, else the quarter of the most that `params` falls into, 1 to 4."""
    # The double minus rounds up: the smallest amount above zero has a shade.
    return 0 if not params else -(-4 * params // most)


def _legend(plan: JobPlan, most: int, width: int) -> list[Line]:
    by_shade: dict[int, set[int]] = {}
    for rank_class in plan.rank_classes:
        by_shade.setdefault(_shade(rank_class.trainable_params, most), set()).add(rank_class.trainable_params)
    # Only shades that occur are explained, each with the figures that it stands for.
    lines: list[Line] = []
    for shade in sorted(by_shade, reverse=True):
        values = sorted(by_shade[shade])
        span = count(values[0]) if len(values) == 1 else f"{count(values[0])} to {count(values[-1])}"
        words = (
            f"{span} trainable parameters on one rank"
            if shade
            else "no trainable parameters: these ranks train nothing"
        )
        lines.append(
            line(Span(f"{SHADES[shade]} ", TONES[shade]), Span(words[: width - 2], Tone.PLAIN if shade else Tone.BAD))
        )
    return lines


def _chosen(scene: Scene, width: int) -> list[Line]:
    plan, layout = scene.plan, scene.plan.layout
    if scene.rank is None:
        return wrapped(
            "No rank is chosen: the tree shows the whole model. Choose a cell, or press ] for the first stage.",
            width,
            Tone.DIM,
        )
    rank_class = plan.rank_classes[class_of(plan, scene.rank)]
    where = coordinates(layout, scene.rank).described(layout)
    dtype = plan.model.weights_dtype
    trainable = rank_class.trainable_params
    lines = [line(Span(f"rank {scene.rank}", Tone.TITLE), Span(f"  {where}", Tone.PLAIN))]
    first, last = rank_class.first_rank, rank_class.last_rank
    if last > first:
        lines += wrapped(f"ranks {first}-{last} hold the same modules with the same shapes", width, Tone.DIM)
    lines += labelled("layers", _layers(plan, rank_class).removeprefix("layers "), width)
    lines += labelled("adapters", f"{count(len(rank_class.placements))} · {count(trainable)} parameters", width)
    lines += labelled("memory", adapter_cost(trainable), width)
    return lines + labelled(
        "base",
        f"{count(rank_class.base_params)} parameters, {size(weight_bytes(rank_class.base_params, dtype))}",
        width,
    )
