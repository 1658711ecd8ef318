"""Ask for the path of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from clora_inspect.tui.screens.leave_once import LeaveOnce

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType


class PathScreen(LeaveOnce[str], ModalScreen[str]):
    """Ends with the path that was typed, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Back", show=False)]

    def __init__(self, title: str, path: str) -> None:
        super().__init__()
        self._title = title
        self._path = path

    def compose(self) -> ComposeResult:
        """Yield a box in the middle, with the proposed path in it."""
        with Vertical(id="choose") as box:
            box.border_title = self._title
            # Not selected: a user mostly changes the end of the proposal.
            yield Input(self._path, id="path-input", compact=True, select_on_focus=False)
            yield Label("enter writes it, esc goes back", id="path-words")

    def on_mount(self) -> None:
        """Put the cursor at the end of the proposed path."""
        field = self.query_one(Input)
        field.cursor_blink = False
        self.set_focus(field)

    @on(Input.Submitted)
    def submit(self, event: Input.Submitted) -> None:
        """End with the path, unless it is empty."""
        if event.value.strip():
            self.leave(event.value.strip())

    def action_cancel(self) -> None:
        self.leave(None)
