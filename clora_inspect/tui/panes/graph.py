"""The Graph pane: the modules around a module, and the ranks that hold the same slices of its
adapters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Fate
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
    labelled,
    line,
    wrapped,
)
from clora_inspect.tui.panes.overview import module_list
from clora_inspect.tui.panes.placement import held_by
from clora_inspect.tui.tree.rows import parent_of

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow

INDENT = "  "
MOST_NEIGHBOURS = 40
"""Modules listed below or beside the chosen one; a layer of experts has hundreds."""


def graph_lines(scene: Scene, row: TreeRow | None, width: int) -> list[Line]:
    """Return the pane's lines for a row of the tree; None is the model itself."""
    tree = scene.tree
    if row is None:
        top = [each for each in tree.rows() if each.depth == 0]
        return [line(Span(scene.name, Tone.TITLE)), *_modules(scene, "holds", top, width)]
    parent = parent_of(row.path)
    above = Span(keep_end(parent, width - 2), Tone.LINK, Link(Target.NODE, parent)) if parent else Span(scene.name)
    lines = [line(Span("stands in", Tone.DIM)), line(INDENT, above)]
    # No link: it would lead to where the user already is.
    lines += _modules(scene, "this module", [row], width, parent, link=False)
    if row.has_children:
        lines += _modules(scene, "holds", tree.children_of(row), width, row.path)
    beside = [
        each
        for each in tree.rows()
        if each.depth == row.depth and parent_of(each.path) == parent and each.node != row.node
    ]
    lines += _modules(scene, "beside it", beside, width, parent)
    lines += [BLANK, *labelled("held by", held_by(scene, row), width)]
    return [*lines, *_same_slices(scene, row, width)]


def _modules(
    scene: Scene, title: str, rows: list[TreeRow], width: int, above: str = "", *, link: bool = True
) -> list[Line]:
    if not rows:
        return []
    listed = module_list(scene, rows[:MOST_NEIGHBOURS], width, above, indent=INDENT, link=link)
    return [BLANK, line(Span(title, Tone.DIM)), *listed]


def _same_slices(scene: Scene, row: TreeRow, width: int) -> list[Line]:
    """Return, for A and B of each adapter, the ranks with the same slice as the chosen rank.

    Without a chosen rank it is the first rank that holds the module.
    """
    plan, nodes = scene.plan, scene.tree.nodes
    placements = [] if nodes.fates[row.node] is Fate.NO_PARAMETERS else nodes.placements(row.node)
    if plan.layout.world == 1 or not placements:
        return []
    rank = scene.rank if scene.rank is not None else plan.rank_classes[nodes.classes[row.node][0]].first_rank
    lines = [BLANK, *wrapped(f"ranks with the same slices as rank {rank}", width, Tone.DIM)]
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
                else f"on rank {rank} only: every rank has a slice of its own"
            )
            lines += labelled(f"  {factor}{part}", f"{shape(local)} · {others}", width)
    return lines
