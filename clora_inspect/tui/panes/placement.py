"""The Placement pane: whether the chosen module is adapted, why, with which shapes and at what
cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Fate, Placement, Skip
from clora_inspect.formats.plan import memory
from clora_inspect.formats.plan.unadapted import targets_for, why_not_adaptable
from clora_inspect.formats.quantities import count
from clora_inspect.tui.panes import fates
from clora_inspect.tui.panes.drawing import branch, drawing, shape
from clora_inspect.tui.panes.findings import place_of
from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, keep_end, labelled, line, wrapped
from clora_inspect.tui.panes.overview import container_lines, model_lines
from clora_inspect.tui.panes.scene import key_of
from clora_inspect.tui.panes.snapshot import drift_of

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow


def placement_lines(scene: Scene, row: TreeRow | None, width: int) -> list[Line]:
    """Return the pane's lines for a row of the tree; None is the model itself."""
    if row is None:
        return model_lines(scene, width)
    nodes = scene.tree.nodes
    placements = nodes.placements(row.node)
    # A node without an entry is a fused linear with adapted parts, or only groups modules.
    if nodes.fates[row.node] is Fate.NO_PARAMETERS and nodes.entries[row.node] is not None and row.has_children:
        return container_lines(scene, row, width)
    head = [*_head(scene, row, width), BLANK]
    if placements:
        return head + _adapted(scene, row, placements, width)
    return head + _not_adapted(scene, row, width)


def _head(scene: Scene, row: TreeRow, width: int) -> list[Line]:
    nodes = scene.tree.nodes
    return [
        line(Span(keep_end(row.path, width), Tone.TITLE)),
        line(
            Span(f"{fates.glyph(nodes, row.node)} {fates.words(nodes, row.node)}".strip(), fates.tone(nodes, row.node)),
            Span(f"  {nodes.class_name(row.node)}", Tone.DIM),
        ),
    ]


def _adapted(scene: Scene, row: TreeRow, placements: list[Placement], width: int) -> list[Line]:
    lines = drawing(_linear_name(row), [branch(each) for each in placements], width)
    lines.append(line(Span("       shapes of one rank" if scene.plan.layout.world > 1 else "", Tone.DIM)))
    lines.append(BLANK)
    # The adapters of one linear have rank, alpha and split in common: they differ in their part.
    first = placements[0]
    lines += labelled("rank", f"{first.dim} · alpha {first.alpha:g} · scale alpha / rank = {first.scale:g}", width)
    for factor, axes, names in (("A", first.a_axes, ("rank", "in")), ("B", first.b_axes, ("out", "rank"))):
        lines += labelled(f"{factor} split", _split(scene, axes, names), width)
    if first.experts:
        lines += labelled("experts", _experts(scene, first), width)
    lines.append(BLANK)
    for each in placements:
        lines += _adapter(scene, row, each, width)
    lines += _cost(scene, row, placements, width)
    lines += labelled("held by", held_by(scene, row), width)
    return [*lines, *_unadapted_parts(scene, row, width), *_drift(scene, row, width)]


def _linear_name(row: TreeRow) -> str:
    return row.path.partition("[")[0].rpartition(".")[2]


def _adapter(scene: Scene, row: TreeRow, placement: Placement, width: int) -> list[Line]:
    label = placement.part or "adapter"
    whole = f"A {shape(placement.a_global_shape)} · B {shape(placement.b_global_shape)}"
    each = " each" if row.times > 1 else ""
    return [
        *labelled(label, f"{whole} · {count(placement.model_params)} parameters{each}", width),
        *_chosen_by(scene, placement, width),
    ]


def _chosen_by(scene: Scene, placement: Placement, width: int) -> list[Line]:
    if placement.target is None:
        return labelled("", "target_modules is empty: all linears that are not excluded are adapted", width)
    key = key_of("target_modules", scene.plan.lora.target_modules, placement.target)
    if key is None:
        # The plan was made from a snapshot, which keeps the target of each adapter and no list.
        return labelled("", f'chosen by "{placement.target}"', width)
    lines = labelled("", f'chosen by {key.removeprefix("lora.")} "{placement.target}"', width)
    place = place_of(scene.location_of(key))
    if place:
        lines.append(line(" " * 12, Span(place, Tone.LINK, Link(Target.FILE, place))))
    return lines


def _split(scene: Scene, axes: tuple[str | None, ...], names: tuple[str, str]) -> str:
    # Grouped experts hold their factors in one tensor, with the expert as the first dim.
    names = ("experts", *names) if len(axes) > 2 else names  # type: ignore[assignment]
    cuts = [
        f"{name} over {axis}{scene.plan.layout.sizes()[axis]}"
        for name, axis in zip(names, axes, strict=False)
        if axis is not None and scene.plan.layout.sizes()[axis] > 1
    ]
    return ", ".join(cuts) or "whole on every rank"


def _experts(scene: Scene, placement: Placement) -> str:
    experts = placement.experts
    if experts is None:
        return ""
    spread = f"{experts.num_experts} routed, {experts.num_local_experts} on each of {experts.ep} expert-parallel ranks"
    pairs = "a pair for every expert" if experts.per_expert else "one pair shared by all experts"
    if placement.copies > 1 or not experts.num_local_experts:
        return f"{experts.num_experts} routed, one module each, a pair for every expert"
    return f"{spread if scene.plan.layout.ep > 1 else f'{experts.num_experts} routed on every rank'}; {pairs}"


def _cost(scene: Scene, row: TreeRow, placements: list[Placement], width: int) -> list[Line]:
    whole = sum(each.model_params for each in placements) * row.times
    here = sum(each.params for each in placements)
    # With a chosen rank the tree has only its modules, and the sum over a folded row is exact.
    # Without one, the modules of a row stand on different ranks: the figure is for one of them.
    held = here * row.times if scene.rank is not None else here
    one = (
        "on this rank" if scene.rank is not None else "on one rank" if row.times == 1 else "on one rank, for one module"
    )
    in_all = f" in {row.times} modules" if row.times > 1 else ""
    lines = labelled("parameters", f"{count(whole)}{in_all} · {count(held)} {one}", width)
    return lines + labelled("memory", f"{memory.adapter_cost(held)} {one}", width)


def held_by(scene: Scene, row: TreeRow) -> str:
    """Return the ranks that hold a module, such as `ranks 0-3 (pp0), 4-7 (pp1)`."""
    nodes = scene.tree.nodes
    numbers: dict[int, None] = {}
    for node in scene.tree.nodes_of(row):
        numbers.update(dict.fromkeys(nodes.classes[node]))
    pieces = []
    for number in sorted(numbers):
        rank_class = scene.plan.rank_classes[number]
        first, last = rank_class.first_rank, rank_class.last_rank
        pieces.append(f"{first}-{last} (pp{rank_class.pp})" if last > first else f"{first} (pp{rank_class.pp})")
    # The first two show the step between the stages, and the last one where they end.
    if len(pieces) > 4:
        pieces = [*pieces[:2], "…", pieces[-1]]
    many = len(numbers) > 1 or "-" in pieces[0].partition(" ")[0] if pieces else False
    return f"{'ranks' if many else 'rank'} {', '.join(pieces)}" if pieces else "no rank"


def _unadapted_parts(scene: Scene, row: TreeRow, width: int) -> list[Line]:
    nodes = scene.tree.nodes
    lines: list[Line] = []
    for child in nodes.children(row.node):
        entry = nodes.entries[child]
        if isinstance(entry, Skip) and entry.part:
            lines += labelled(entry.part, _why_not(entry), width, Tone.WARN)
    return lines


def _not_adapted(scene: Scene, row: TreeRow, width: int) -> list[Line]:
    entry = scene.tree.nodes.entries[row.node]
    if not isinstance(entry, Skip):
        return [line("No module has this path: it only groups the modules below it.")]
    lines: list[Line] = []
    if entry.reason in (Fate.EXCLUDED, Fate.UNMATCHED):
        lines += [*drawing(_linear_name(row), [], width), BLANK]
    lines += wrapped(_why_not(entry), width)
    if entry.params:
        lines += [
            BLANK,
            *labelled(
                "parameters", f"{count(entry.params)} frozen on one rank" + (", each" if row.times > 1 else ""), width
            ),
        ]
        lines += labelled("held by", held_by(scene, row), width)
    return [*lines, *_drift(scene, row, width)]


def _why_not(skip: Skip) -> str:
    if skip.reason is Fate.EXCLUDED:
        return f'Excluded by exclude_modules "{skip.by}".'
    if skip.reason is Fate.UNMATCHED:
        targets = " and ".join(f'"{target}"' for target in targets_for(skip))
        return f"Unmatched: no target names it. To adapt it, add {targets} to target_modules."
    if skip.reason is Fate.NOT_ADAPTABLE:
        if skip.own_parameters:
            return f"A {skip.class_name} {why_not_adaptable(skip)}."
        return f"A {skip.class_name} is not adaptable: it is neither a linear nor a router. It stays frozen."
    return "It has no parameters: there is nothing to adapt."


def _drift(scene: Scene, row: TreeRow, width: int) -> list[Line]:
    """Return the changes in this module since the snapshot."""
    if scene.drift is None:
        return []
    found = drift_of(scene, row)
    if not found:
        return labelled("snapshot", "as in the snapshot", width, Tone.DIM)
    lines: list[Line] = []
    for each in found:
        lines += labelled("snapshot", f"{each.change} since the snapshot: {each.where}", width, Tone.WARN)
    return lines
