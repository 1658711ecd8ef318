"""Jump mode: a letter on every pane and tab; pressing it goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.screen import ModalScreen
from textual.widgets import Label

from clora_inspect.tui.screens.leave_once import LeaveOnce

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult
    from textual.geometry import Offset

LETTERS = "asdfghjklqwertyuiopzxcvbnm"


class JumpScreen(LeaveOnce[str], ModalScreen[str]):
    """Ends with the name of the place, or None."""

    def __init__(self, places: list[tuple[str, Offset]]) -> None:
        """Letters at `places`: name and position."""
        super().__init__()
        self._places = dict(zip(LETTERS, places, strict=False))

    def compose(self) -> ComposeResult:
        """The letters."""
        for letter, (_, offset) in self._places.items():
            label = Label(f" {letter} ", classes="jump", markup=False)
            label.styles.offset = (offset.x, offset.y)
            yield label

    def on_key(self, event: events.Key) -> None:
        """Go to the place of the letter; any other key ends the mode."""
        event.stop()
        place = self._places.get(event.key)
        self.leave(place[0] if place else None)

    def on_click(self, event: events.Click) -> None:
        """Go to the letter that was clicked."""
        for name, offset in self._places.values():
            if event.screen_y == offset.y and offset.x <= event.screen_x < offset.x + 3:
                self.leave(name)
                return
        self.leave(None)
