"""Choose one of several options: type a part of its name, use the arrows, or click."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from clora_inspect.tui.screens.leave_once import LeaveOnce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType


class _Choices(OptionList):
    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Refuse to turn pages without a line on the screen, which Textual looks up."""
        if action in ("page_up", "page_down") and not self.scrollable_content_region.height:
            return False
        return super().check_action(action, parameters)


class ChooseScreen(LeaveOnce[str], ModalScreen[str]):
    """Ends with the id of the chosen option, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Back", show=False),
        Binding("down", "down", show=False),
        Binding("up", "up", show=False),
    ]

    def __init__(
        self, title: str, options: Sequence[tuple[str, str, str]], *, typed: bool = True, free: bool = False
    ) -> None:
        """Ask for one of `options`.

        Args:
            title: the title of the box.
            options: id, name and a few words of each.
            typed: whether there is a field to search them.
            free: whether what is typed there may be the answer, if no option matches.
        """
        super().__init__()
        self._title = title
        self._options = options
        self._typed = typed
        self._free = free

    def compose(self) -> ComposeResult:
        """Yield a box in the middle, with the search field and the list in it."""
        with Vertical(id="choose") as box:
            box.border_title = self._title
            if self._typed:
                yield Input(
                    placeholder="type to search" + (", or a path" if self._free else ""),
                    id="choose-input",
                    compact=True,
                )
            yield _Choices(id="choose-list", compact=True, markup=False)

    def on_mount(self) -> None:
        """List all options, the first highlighted."""
        self._fill("")
        self.set_focus(self.query_one(Input) if self._typed else self.query_one(OptionList))

    def _fill(self, text: str) -> None:
        found = [each for each in self._options if text.lower() in f"{each[1]} {each[2]}".lower()]
        longest = max((len(name) for _, name, _ in found), default=0)
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(
            [
                Option(Text.assemble((f"{name:<{longest}}", "bold"), f"  {words}", no_wrap=True), id=key)
                for key, name, words in found
            ]
        )
        # The list highlights nothing by itself, and Enter is to take the best match.
        if found:
            options.highlighted = 0

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        """Narrow the list to the options that have the text in their name or words."""
        self._fill(event.value)

    @on(Input.Submitted)
    def submit(self, event: Input.Submitted) -> None:
        """End with the highlighted option, or else with what was typed."""
        options = self.query_one(OptionList)
        if options.highlighted is not None and options.option_count:
            self.leave(options.get_option_at_index(options.highlighted).id)
        elif self._free and event.value.strip():
            self.leave(event.value.strip())

    @on(OptionList.OptionSelected)
    def select(self, event: OptionList.OptionSelected) -> None:
        self.leave(event.option_id)

    def action_down(self) -> None:
        # The search field has the focus, so the list does not get this key by itself.
        self.query_one(OptionList).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(OptionList).action_cursor_up()

    def action_cancel(self) -> None:
        self.leave(None)
