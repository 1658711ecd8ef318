"""One-line widgets around the panes: the header, the tabs, the footer. Everything on them can be
clicked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, line, width_of
from clora_inspect.tui.widgets.actions import BY_ID, Action
from clora_inspect.tui.widgets.styles import segment

if TYPE_CHECKING:
    from textual import events


class OneLine(Widget):
    """A line of spans, some of which are links."""

    class Clicked(Message):
        """A link was clicked."""

        def __init__(self, link: Link) -> None:
            """To `link`."""
            super().__init__()
            self.link = link

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        """An empty line."""
        super().__init__(id=id)
        self._spans: Line = BLANK

    @property
    def text(self) -> str:
        """The line as plain text."""
        return "".join(span.text for span in self._spans).rstrip()

    def make(self, width: int) -> Line:
        """The line for a width."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        """The line."""
        width, base = self.size.width, self.rich_style
        if y:
            return Strip.blank(width, base)
        self._spans = self.make(width)
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

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        """Nothing is known yet."""
        super().__init__(id=id)
        self._left: tuple[str, ...] = ("clora-inspect",)
        self._right: tuple[Span, ...] = ()

    def say(self, left: tuple[str, ...], right: tuple[Span, ...]) -> None:
        """`left` are pieces, of which the last go first where there is no room."""
        self._left, self._right = left, right
        self.refresh()

    def make(self, width: int) -> Line:
        """The line for a width."""
        pieces = list(self._left)
        room = width - width_of(self._right) - 3
        while len(pieces) > 1 and len(" ─ ".join(pieces)) > room:
            pieces.pop(-1)
        left = " ─ ".join(pieces)
        gap = max(width - len(left) - 2 - width_of(self._right), 1)
        first, dash, rest = left.partition(" ─ ")
        return line(" ", Span(first, Tone.TITLE), Span(dash + rest), " " * gap, *self._right, " ")


class Tabs(OneLine):
    """The tabs of the details."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        """The first is chosen."""
        super().__init__(id=id)
        self.chosen = 0
        self.names = tuple(BY_ID[f"tab-{name}"] for name in ("placement", "ranks", "graph", "snapshot", "source"))

    def choose(self, number: int) -> None:
        """Choose a tab."""
        self.chosen = number
        self.refresh()

    def make(self, width: int) -> Line:
        """The line for a width."""
        gap = "  " if sum(len(each.label) + 5 for each in self.names) <= width else " "
        spans: list[Span] = []
        for number, action in enumerate(self.names):
            chosen = number == self.chosen
            link = Link(Target.ACTION, action.id)
            word = action.label if chosen or gap == "  " else action.label[: max((width - 24) // 5, 3)]
            spans.append(Span(f" {action.shown_keys} {word} ", Tone.CHOSEN if chosen else Tone.PLAIN, link))
            spans.append(Span(gap[1:]))
        return line(*spans)


class Footer(OneLine):
    """Keys and what they do, as many as fit."""

    def __init__(self, actions: list[Action], *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        """Show `actions`, the last of which stay where there is no room for all."""
        super().__init__(id=id)
        self._actions = actions

    def make(self, width: int) -> Line:
        """The line for a width."""
        keymap = getattr(self.app, "keymap", {})
        shown = list(self._actions)
        keep = max(len(shown) - 3, 1)
        while len(shown) > 1 and sum(len(_first_key(each, keymap)) + len(each.label) + 3 for each in shown) > width:
            keep = min(keep, len(shown) - 1)
            shown.pop(max(len(shown) - 4, 0) if len(shown) > 4 else -1)
        spans: list[Span] = []
        for action in shown:
            link = Link(Target.ACTION, action.id)
            spans += [
                Span(f" {_first_key(action, keymap)}", Tone.KEY, link),
                Span(f" {action.label} ", Tone.PLAIN, link),
            ]
        return line(*spans)


def _first_key(action: Action, keymap: dict[str, str]) -> str:
    from clora_inspect.tui.widgets.actions import shown

    return shown(keymap.get(action.id, action.keys)).split(" ", maxsplit=1)[0]
