"""Jump mode: a letter on every pane and tab; pressing it goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.geometry import Offset
from textual.screen import ModalScreen
from textual.widgets import Label

from clora_inspect.tui.screens.leave_once import LeaveOnce

if TYPE_CHECKING:
    from collections.abc import Iterable

    from textual import events
    from textual.app import ComposeResult
    from textual.widget import Widget

    from clora_inspect.tui.widgets.one_line import TabBar

LETTERS = "asdfghjklqwertyuiopzxcvbnm"
"""Home row first: the panes, which come first, are there."""


def places(panes: Iterable[Widget], tabs: TabBar) -> list[tuple[str, Offset]]:
    """Return where letters go: the id of each visible pane, then `tab-NAME` of each visible tab,
    with the position on the screen.
    """
    found = [(str(pane.id), pane.region.offset) for pane in panes if pane.region.area]
    if tabs.region.area:
        corner = tabs.region.offset
        found += [(f"tab-{name}", corner + Offset(cell)) for name, cell in tabs.first_cells().items()]
    return found


class JumpScreen(LeaveOnce[str], ModalScreen[str]):
    """Ends with the name of the chosen place, or with None."""

    def __init__(self, places: list[tuple[str, Offset]]) -> None:
        super().__init__()
        # Not strict: there are more letters than places.
        self._places = dict(zip(LETTERS, places, strict=False))

    def compose(self) -> ComposeResult:
        for letter, (_, offset) in self._places.items():
            label = Label(f" {letter} ", classes="jump", markup=False)
            label.styles.offset = (offset.x, offset.y)
            yield label

    def on_key(self, event: events.Key) -> None:
        """End with the place of the letter; any other key ends with nothing."""
        # Stopped, so that the letter does nothing else.
        event.stop()
        place = self._places.get(event.key)
        self.leave(place[0] if place else None)

    def on_click(self, event: events.Click) -> None:
        """End with the place of the letter that was clicked."""
        for name, offset in self._places.values():
            if event.screen_y == offset.y and offset.x <= event.screen_x < offset.x + 3:
                self.leave(name)
                return
        self.leave(None)
