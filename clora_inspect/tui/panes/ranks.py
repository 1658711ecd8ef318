"""The Ranks pane: the cluster as a heat map with one row per pipeline stage and one cell per rank,
shaded by peak memory where it was counted, else by trainable parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.plan.memory import adapter_cost
from clora_inspect.formats.quantities import count, size
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.memory import weight_bytes
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.tui.panes.coordinates import class_of, coordinates
from clora_inspect.tui.panes.heat import CELLS, TONES, Heat, heat_of
from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, labelled, line, width_of, wrapped
from clora_inspect.tui.panes.rank_account import account_lines

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan, RankClass
    from clora_inspect.tui.panes.scene import Scene


def ranks_lines(scene: Scene, width: int) -> list[Line]:
    """Return the pane's lines: the map, the meaning of its shades, and the chosen rank."""
    plan = scene.plan
    layout = plan.layout
    per_stage = layout.world // layout.pp
    heat = heat_of(scene)
    # Six cells stand before the map: the name of the stage and the mark of the chosen one. Behind
    # it stands the peak of the stage; trainable parameters mostly are those of all stages.
    behind = max(len(heat.show(amount)) for amount in heat.amounts) + 2 if heat.is_memory else 0
    bundle, cells_per_block = _cells(layout.tp, per_stage, max(width - 6 - behind, 8))
    heading = f"{count(layout.world)} ranks" if layout.world > 1 else "1 rank"
    shaded = wrapped(f"one row per pipeline stage, shaded by {heat.by}", width - len(heading) - 2, Tone.DIM)
    lines = [
        line(Span(heading, Tone.TITLE), "  ", *shaded[0]),
        *(line(" " * (len(heading) + 2), *each) for each in shaded[1:]),
        line(Span(_cell_words(layout.tp, bundle), Tone.DIM)),
        BLANK,
    ]
    for each, amount in zip(plan.rank_classes, heat.amounts, strict=True):
        lines.append(_stage(scene, each, heat, amount, bundle, cells_per_block, width))
    lines += [BLANK, *heat.legend(width), *_beside_memory(scene, heat, width)]
    return [*lines, BLANK, *_chosen(scene, width)]


def _beside_memory(scene: Scene, heat: Heat, width: int) -> list[Line]:
    """Return how memory is counted; once it was, the stages that the map no longer shows to train
    nothing.
    """
    plan = scene.plan
    if not heat.is_memory:
        # A plan that was read from a snapshot does not name its model.
        hint = "Press m to count the peak memory of each rank." if plan.model_source else ""
        words = scene.memory_note or hint
        return wrapped(words, width, Tone.WARN if scene.memory_note else Tone.DIM) if words else []
    idle = [f"pp{each.pp}" for each in plan.rank_classes if not each.trainable_params]
    return wrapped(f"no trainable parameters: {', '.join(idle)} train nothing", width, Tone.BAD) if idle else []


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


def _stage(
    scene: Scene, rank_class: RankClass, heat: Heat, amount: int, bundle: int, per_block: int, width: int
) -> Line:
    first, last = rank_class.first_rank, rank_class.last_rank
    shade = heat.shade(amount)
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
        spans.append(Span("◆", Tone.CHOSEN, link) if chosen else Span(CELLS[shade], TONES[shade], link))
    # On a narrow pane the amount alone, if there is room for it.
    for words in (f"  {heat.show(amount)}  {_layers(scene.plan, rank_class)}", f"  {heat.show(amount)}"):
        if width_of(spans) + len(words) <= width:
            return line(*spans, Span(words, Tone.DIM))
    return line(*spans)


def _layers(plan: JobPlan, rank_class: RankClass) -> str:
    layers = plan.layers_of(rank_class)
    return f"layers {fold(layers)}" if layers else "no layers"


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
    lines += labelled(
        "base",
        f"{count(rank_class.base_params)} parameters, {size(weight_bytes(rank_class.base_params, dtype))}",
        width,
    )
    if plan.workload and isinstance(rank_class.memory, RankMemory):
        lines += [BLANK, *account_lines(rank_class.memory, plan.workload, scene.gpu_memory_gib, width)]
    return lines
