"""Widgets of one line around the panes: the header, the tab bar, the footer. Everything on them can
be clicked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, line, width_of
from clora_inspect.tui.widgets.actions import BY_ID, Action
from clora_inspect.tui.widgets.key_bindings import keys_of
from clora_inspect.tui.widgets.styles import segment
from clora_inspect.tui.widgets.tabs import TABS

if TYPE_CHECKING:
    from textual import events

ALWAYS_IN_FOOTER = 3
"""The last actions of a footer (help, commands, quit) are the last that a narrow terminal hides."""


class OneLine(Widget):
    """One line of spans, some of which are links."""

    class Clicked(Message):
        def __init__(self, link: Link) -> None:
            super().__init__()
            self.link = link

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        super().__init__(id=id)
        self._spans: Line = BLANK

    @property
    def text(self) -> str:
        """The line as plain text."""
        return "".join(span.text for span in self._spans).rstrip()

    def line_for(self, width: int) -> Line:
        """Make the line for a width in cells."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        """Draw row `y` of the widget; the text is in row 0."""
        width, base = self.size.width, self.rich_style
        if y:
            return Strip.blank(width, base)
        # Kept for clicks: what was drawn is what a user points at.
        self._spans = self.line_for(width)
        segments = [segment(self, span, base) for span in self._spans]
        return Strip(segments).adjust_cell_length(width, base)

    def on_click(self, event: events.Click) -> None:
        """Follow the link under the pointer."""
        cell = 0
        for span in self._spans:
            end = cell + width_of([span])
            if span.link is not None and cell <= event.x < end:
                self.post_message(self.Clicked(span.link))
            cell = end


class Header(OneLine):
    """The job at the left, what is wrong with it at the right."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        super().__init__(id=id)
        self._left: tuple[str, ...] = ("clora-inspect",)
        self._right: tuple[Span, ...] = ()

    def show(self, left: tuple[str, ...], right: tuple[Span, ...]) -> None:
        """Show the pieces `left`, the first of them as a title, and `right` at the right end. Where
        there is no room for all pieces the last ones are left out.
        """
        self._left, self._right = left, right
        self.refresh()

    def line_for(self, width: int) -> Line:
        """Make the line for a width in cells."""
        pieces = list(self._left)
        # A blank at each end, and one between the two.
        room = width - width_of(self._right) - 3
        while len(pieces) > 1 and len(" ─ ".join(pieces)) > room:
            pieces.pop(-1)
        left = " ─ ".join(pieces)
        gap = max(width - len(left) - 2 - width_of(self._right), 1)
        first, dash, rest = left.partition(" ─ ")
        return line(" ", Span(first, Tone.TITLE), Span(dash + rest), " " * gap, *self._right, " ")


class TabBar(OneLine):
    """The tabs of the details, each with its key."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        super().__init__(id=id)
        self.chosen = TABS[0].name
        """Name of the chosen tab."""

    def choose(self, name: str) -> None:
        """Mark the tab of that name."""
        self.chosen = name
        self.refresh()

    def first_cells(self) -> dict[str, int]:
        """Return the first cell of every tab, by the tab's name."""
        cells: dict[str, int] = {}
        cell = 0
        for span in self.line_for(self.size.width):
            if span.link is not None:
                cells[span.link.value.removeprefix("tab-")] = cell
            cell += width_of([span])
        return cells

    def line_for(self, width: int) -> Line:
        """Make the line for a width in cells. Where there is no room, only the label of the chosen
        tab stays whole.
        """
        is_roomy = sum(len(tab.label) + 5 for tab in TABS) <= width
        # Beside its label a tab has its key and three blanks; the chosen one needs some more.
        shortest = max((width + 1) // len(TABS) - 5, 3)
        spans: list[Span] = []
        for tab in TABS:
            is_chosen = tab.name == self.chosen
            action = BY_ID[f"tab-{tab.name}"]
            label = tab.label if is_chosen or is_roomy else tab.label[:shortest]
            text = f" {action.shown_keys} {label} "
            spans.append(Span(text, Tone.CHOSEN if is_chosen else Tone.PLAIN, Link(Target.ACTION, action.id)))
            spans.append(Span(" " if is_roomy else ""))
        return line(*spans)


class Footer(OneLine):
    """Keys and what they do, as many as fit."""

    def __init__(self, actions: list[Action], *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        super().__init__(id=id)
        self._actions = actions

    def line_for(self, width: int) -> Line:
        """Make the line for a width in cells. Where there is no room for all, actions in the middle
        are left out: the first are those of this screen, the last lead on from everywhere.
        """
        shown = [(self._key(action), action) for action in self._actions]
        while len(shown) > 1 and sum(len(key) + len(action.label) + 3 for key, action in shown) > width:
            shown.pop(-1 - ALWAYS_IN_FOOTER if len(shown) > ALWAYS_IN_FOOTER + 1 else -1)
        spans: list[Span] = []
        for key, action in shown:
            link = Link(Target.ACTION, action.id)
            spans += [Span(f" {key}", Tone.KEY, link), Span(f" {action.label} ", Tone.PLAIN, link)]
        return line(*spans)

    def _key(self, action: Action) -> str:
        """Return the first of the action's keys, as people write it."""
        return keys_of(self.app, action).split(" ", maxsplit=1)[0]
