"""The tabs of the details, in their order. To add one: a line here, and its lines in `panes/`.

Keys, the tab bar, help, the command palette and the page in the docs are made of this table. Pure
data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from clora_inspect.tui.panes.graph import graph_lines
from clora_inspect.tui.panes.placement import placement_lines
from clora_inspect.tui.panes.ranks import ranks_lines
from clora_inspect.tui.panes.snapshot import snapshot_lines
from clora_inspect.tui.panes.source import source_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.tui.panes.lines import Line
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow


class Tab(NamedTuple):
    """One tab; its key is its number in `TABS`, from 1."""

    name: str
    """The NAME in the action's id, `tab-NAME`."""
    label: str
    help: str
    """One sentence: what the tab shows."""
    lines: Callable[[Scene, TreeRow | None, int], list[Line]]
    """Returns the text of the pane for the chosen row (None: the model itself) and a width."""


TABS = (
    Tab("placement", "Placement", "What becomes of the module, why, with which shapes.", placement_lines),
    Tab(
        "ranks",
        "Ranks",
        "The cluster as a heat map of peak memory, if it was counted, or of trainable parameters.",
        lambda scene, _row, width: ranks_lines(scene, width),
    ),
    Tab("graph", "Graph", "What the module stands in, holds, and must agree with.", graph_lines),
    Tab("snapshot", "Snapshot", "What changed here since the snapshot.", snapshot_lines),
    Tab("source", "Source", "The classes, and the lines of the configuration.", source_lines),
)

BY_NAME = {tab.name: tab for tab in TABS}
