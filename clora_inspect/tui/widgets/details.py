"""The details of the chosen module: five tabs over one pane of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Vertical

from clora_inspect.tui.panes.graph import graph_lines
from clora_inspect.tui.panes.placement import placement_lines
from clora_inspect.tui.panes.ranks import ranks_lines
from clora_inspect.tui.panes.snapshot import snapshot_lines
from clora_inspect.tui.panes.source import source_lines
from clora_inspect.tui.widgets.one_line import Tabs
from clora_inspect.tui.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from clora_inspect.tui.panes.lines import Line
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow

TABS = ("placement", "ranks", "graph", "snapshot", "source")


class Details(Vertical):
    """Tabs and text."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        """Nothing is chosen yet."""
        super().__init__(id=id)
        self._scene: Scene | None = None
        self._row: TreeRow | None = None
        self.tabs = Tabs(id="tabs")
        self.pane = TextPane(self._lines, id="details-text")

    def compose(self) -> ComposeResult:
        """The tabs above the text."""
        yield self.tabs
        yield self.pane

    @property
    def tab(self) -> str:
        """The chosen tab."""
        return TABS[self.tabs.chosen]

    def show(self, scene: Scene, row: TreeRow | None, *, keep_place: bool = False) -> None:
        """Speak of another row, or of the same after a change."""
        self._scene, self._row = scene, row
        self.pane.show(keep_place=keep_place)

    def choose(self, tab: str) -> None:
        """Choose a tab."""
        self.tabs.choose(TABS.index(tab))
        self.pane.show()

    def _lines(self, width: int) -> list[Line]:
        scene, row = self._scene, self._row
        if scene is None:
            return []
        match self.tab:
            case "ranks":
                return ranks_lines(scene, width)
            case "graph":
                return graph_lines(scene, row, width)
            case "snapshot":
                return snapshot_lines(scene, row, width)
            case "source":
                return source_lines(scene, row, width)
            case _:
                return placement_lines(scene, row, width)
