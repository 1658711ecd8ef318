"""The details of the chosen module: tabs over one pane of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Vertical

from clora_inspect.tui.widgets.one_line import TabBar
from clora_inspect.tui.widgets.tabs import BY_NAME
from clora_inspect.tui.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from clora_inspect.tui.panes.lines import Line
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow


class Details(Vertical):
    """The tab bar, and the text of the chosen tab."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        super().__init__(id=id)
        self._scene: Scene | None = None
        self._row: TreeRow | None = None
        self.tabs = TabBar(id="tabs")
        self.pane = TextPane(self._lines, id="details-text")

    def compose(self) -> ComposeResult:
        """Yield the tab bar above the text."""
        yield self.tabs
        yield self.pane

    @property
    def tab(self) -> str:
        """Name of the chosen tab."""
        return self.tabs.chosen

    def show(self, scene: Scene, row: TreeRow | None, *, keep_place: bool = False) -> None:
        """Show another row, or the same row after a change. None is the model itself."""
        self._scene, self._row = scene, row
        self.pane.show(keep_place=keep_place)

    def choose(self, tab: str) -> None:
        """Show the tab of that name, from its top."""
        self.tabs.choose(tab)
        self.pane.show()

    def _lines(self, width: int) -> list[Line]:
        return BY_NAME[self.tab].lines(self._scene, self._row, width) if self._scene is not None else []
