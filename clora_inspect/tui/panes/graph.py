"""The neighbourhood of a module: what it stands in, what it holds, its adapters, and which ranks'
copies must agree. Pure text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Placement
from clora_inspect.tui.panes.coordinates import runs, same_slice
from clora_inspect.tui.panes.drawing import shape
from clora_inspect.tui.panes.lines import (
    BLANK,
    Line,
    Link,
    Span,
    Target,
    Tone,
    keep_end,
    keep_start,
    labelled,
    line,
    wrapped,
)
from clora_inspect.tui.panes.overview import STATUS_TONES, status_words
from clora_inspect.tui.panes.placement import held_by
from clora_inspect.tui.tree.nodes import GLYPHS, Status
from clora_inspect.tui.tree.rows import parent_of

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow

MOST_NEIGHBOURS = 40


def graph_lines(scene: Scene, row: TreeRow | None, width: int) -> list[Line]:
    """The pane's text for a row of the tree."""
    tree = scene.tree
    if row is None:
        top = [each for each in tree.rows() if each.depth == 0]
        return [
            line(Span(scene.name, Tone.TITLE)),
            BLANK,
            line(Span("holds", Tone.DIM)),
            *_nodes(scene, top, width, ""),
        ]
    nodes = tree.nodes
    parent = parent_of(row.path)
    lines = [line(Span("stands in", Tone.DIM))]
    lines.append(
        line(
            "  ",
            Span(keep_end(parent, width - 2), Tone.LINK, Link(Target.NODE, parent)) if parent else Span(scene.name),
        )
    )
    lines += [BLANK, line(Span("this module", Tone.DIM)), *_nodes(scene, [row], width, parent, link=False)]
    children = tree.children_of(row) if row.has_children else []
    if children:
        lines += [BLANK, line(Span("holds", Tone.DIM)), *_nodes(scene, children[:MOST_NEIGHBOURS], width, row.path)]
    beside = [
        each
        for each in tree.rows()
        if each.depth == row.depth and parent_of(each.path) == parent and each.node != row.node
    ]
    if beside:
        lines += [BLANK, line(Span("beside it", Tone.DIM)), *_nodes(scene, beside[:MOST_NEIGHBOURS], width, parent)]
    lines += [BLANK, *labelled("held by", held_by(scene, row), width)]
    entry = nodes.entries[row.node]
    placements = (
        [entry]
        if isinstance(entry, Placement)
        else nodes.placements(row.node)
        if nodes.statuses[row.node] is not Status.CONTAINER
        else []
    )
    if placements:
        lines += _groups(scene, row, placements, width)
    return lines


def _nodes(scene: Scene, rows: list[TreeRow], width: int, prefix: str, *, link: bool = True) -> list[Line]:
    nodes = scene.tree.nodes
    lines = []
    names = [row.path.removeprefix(prefix).removeprefix(".") if prefix else row.path for row in rows]
    longest = min(max(map(len, names), default=0), max(width - 32, 18))
    for row, name in zip(rows, names, strict=True):
        status = nodes.statuses[row.node]
        words = status_words(scene, row) or nodes.class_name(row.node)
        lines.append(
            line(
                Span(f"  {GLYPHS[status] or ' '} ", STATUS_TONES[status]),
                Span(keep_end(name, longest).ljust(longest), Tone.PLAIN, Link(Target.NODE, row.path) if link else None),
                Span(keep_start(f"  {words}", width - longest - 4), STATUS_TONES[status]),
            )
        )
    return lines


def _groups(scene: Scene, row: TreeRow, placements: list[Placement], width: int) -> list[Line]:
    """For A and B of every adapter: the ranks that hold the same slice as the chosen rank, whose
    copies must stay equal.
    """
    plan = scene.plan
    if plan.layout.world == 1:
        return []
    classes = scene.tree.nodes.classes[row.node]
    rank = scene.rank if scene.rank is not None else plan.rank_classes[classes[0]].first_rank
    lines = [BLANK, *wrapped(f"what rank {rank} must agree on", width, Tone.DIM)]
    for placement in placements:
        part = f"[{placement.part}]" if placement.part else ""
        for factor, local, axes in (
            ("A", placement.a_shape, placement.a_axes),
            ("B", placement.b_shape, placement.b_axes),
        ):
            ranks = same_slice(plan.layout, placement, axes, rank)
            others = (
                f"equal on ranks {runs(ranks)}"
                if len(ranks) > 1
                else f"on rank {rank} alone: every rank has a slice of its own"
            )
            lines += labelled(f"  {factor}{part}", f"{shape(local)} · {others}", width)
    return lines
