"""A box to tick: `[x] experts share one pair`.

Textual's own check box shows its state by a colour alone, which is lost without colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.binding import BindingType


class TickBox(Widget, can_focus=True):
    """Is on or off. Space, Enter or a click changes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space,enter", "tick", "Change", show=False)]
    on = reactive(False)

    class Changed(Message):
        """The user has changed it."""

    def __init__(self, words: str, on: bool, *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        super().__init__(id=id)
        self._words = words
        # Not assigned: that would redraw a widget which is not mounted yet.
        self.set_reactive(TickBox.on, on)

    def render(self) -> Content:
        """Return the box and the words."""
        # `Content`, because a string would be read as markup, and `[x]` as a style.
        return Content(f"[{'x' if self.on else ' '}] {self._words}")

    def action_tick(self) -> None:
        self.on = not self.on
        self.post_message(self.Changed())

    def on_click(self) -> None:
        self.action_tick()
