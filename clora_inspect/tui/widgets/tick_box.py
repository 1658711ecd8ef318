"""A tick box whose state is a character and not a colour alone: `[x] experts share one pair`."""

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
    """On or off; space, Enter or a click changes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space,enter", "tick", "Change", show=False)]
    on = reactive(False)

    class Changed(Message):
        """It was changed."""

    def __init__(self, words: str, on: bool, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        """Say `words`."""
        super().__init__(id=id)
        self._words = words
        self.set_reactive(TickBox.on, on)

    def render(self) -> Content:
        """The box and the words."""
        return Content(f"[{'x' if self.on else ' '}] {self._words}")

    def action_tick(self) -> None:
        """Change it."""
        self.on = not self.on
        self.post_message(self.Changed())

    def on_click(self) -> None:
        """Change it."""
        self.action_tick()
