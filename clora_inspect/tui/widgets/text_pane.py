"""A pane of lines. It scrolls and wraps for its width; the arrows go from link to link, Enter or a
click follows one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from clora_inspect.tui.panes.lines import Line, Link, plain, width_of
from clora_inspect.tui.widgets.actions import Context
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.styles import CURSOR, segment, tone_style

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual import events
    from textual.binding import BindingType


class TextPane(ScrollView, can_focus=True):
    """Shows lines, and makes them again when its width or their subject changes."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.TEXT)]

    class Followed(Message):
        def __init__(self, pane: TextPane, link: Link) -> None:
            super().__init__()
            self.pane = pane
            self.link = link

    def __init__(self, make: Callable[[int], list[Line]], *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        """Show the lines that `make` returns for a width in cells."""
        super().__init__(id=id)
        self._make = make
        self._lines: list[Line] = []
        self._links: list[tuple[int, int, int, Link]] = []
        """Number of the line, first cell, last cell + 1, where the link leads."""
        self._chosen: int | None = None
        """Number of the link under the cursor."""
        self._made_for = -1
        """Width for which the lines were made, in cells."""

    @property
    def text(self) -> str:
        """All lines as plain text."""
        return plain(self._lines)

    @property
    def links(self) -> list[Link]:
        """All links in reading order."""
        return [link for *_, link in self._links]

    def show(self, make: Callable[[int], list[Line]] | None = None, *, keep_place: bool = False) -> None:
        """Make the lines again, with `make` if it is given, and scroll to the top unless
        `keep_place`.
        """
        if make is not None:
            self._make = make
        if not keep_place:
            self._chosen = None
            self.scroll_to(0, 0, animate=False)
        self._layout()

    def on_resize(self) -> None:
        if self._room() != self._made_for:
            self._layout()

    def _room(self) -> int:
        """Return the cells of a line: the width without the place of the scroll bar."""
        return max(self.scrollable_content_region.width, 1)

    def _layout(self) -> None:
        width = self._room()
        # The panes wrap between words, and a few cells hold no word.
        if width < 4:
            return
        self._made_for = width
        self._lines = self._make(width)
        self._links = []
        for number, spans in enumerate(self._lines):
            cell = 0
            for span in spans:
                end = cell + width_of([span])
                if span.link is not None:
                    self._links.append((number, cell, end, span.link))
                cell = end
        if self._chosen is not None and self._chosen >= len(self._links):
            self._chosen = None
        # No wider than the pane: a drawing that does not fit is cut, and nothing scrolls sideways.
        longest = max((width_of(spans) for spans in self._lines), default=0)
        self.virtual_size = Size(min(longest, width), len(self._lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw row `y` of the visible part."""
        number = y + self.scroll_offset.y
        base = self.rich_style
        if number >= len(self._lines):
            return Strip.blank(self._room(), base)
        # Two panes with a cursor each would leave open which of them the keys move.
        chosen = self._links[self._chosen] if self._chosen is not None and self.has_focus else None
        segments = []
        cell = 0
        for span in self._lines[number]:
            is_chosen = chosen is not None and chosen[0] == number and chosen[1] == cell
            segments.append(segment(self, span, base, tone_style(self, CURSOR) if is_chosen else None))
            cell += width_of([span])
        strip = Strip(segments, cell)
        return strip.adjust_cell_length(self._room(), base)

    def on_click(self, event: events.Click) -> None:
        """Follow the link under the pointer."""
        # Relative to the text: None for a click on the border.
        offset = event.get_content_offset(self)
        if offset is None:
            return
        line = offset.y + self.scroll_offset.y
        for number, (at, first, last, link) in enumerate(self._links):
            if at == line and first <= offset.x < last:
                self._chosen = number
                self.refresh()
                self.post_message(self.Followed(self, link))
                return

    # With the focus the cursor comes and goes, and Textual redraws only what it styles itself.

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def choose(self, number: int) -> None:
        """Put the cursor on a link, by its number, and scroll to it."""
        if 0 <= number < len(self._links):
            self._chosen = number
            line, first, last, _ = self._links[number]
            self.scroll_to_region(Region(first, line, last - first, 1), animate=False, force=True)
            self.refresh()

    def action_text_up(self) -> None:
        self._step(-1)

    def action_text_down(self) -> None:
        self._step(1)

    def action_text_left(self) -> None:
        self._beside(-1)

    def action_text_right(self) -> None:
        self._beside(1)

    def _beside(self, way: int) -> None:
        if self._links:
            here = -1 if self._chosen is None else self._chosen
            self.choose(max(0, min(here + way, len(self._links) - 1)))

    def _step(self, way: int) -> None:
        """Go to the nearest link on the next line that has one. If no such line is visible, scroll
        by one line.
        """
        line, cell = (-1, 0) if self._chosen is None else self._links[self._chosen][:2]
        if self._chosen is None:
            # Begin with what can be seen, not at the top.
            line = self.scroll_offset.y - 1 if way > 0 else self.scroll_offset.y + self.size.height
        lines = {at for at, *_ in self._links if (at - line) * way > 0}
        # A link that can be seen is gone to; on the way to one far off there is text to be read.
        near = min(lines, key=lambda at: abs(at - line), default=None)
        visible = range(self.scroll_offset.y - 1, self.scroll_offset.y + self.size.height + 1)
        if near is None or near not in visible:
            self.scroll_relative(y=way, animate=False)
            return
        candidates = [number for number, each in enumerate(self._links) if each[0] == near]
        self.choose(min(candidates, key=lambda number: abs(self._links[number][1] - cell)))

    def action_text_follow(self) -> None:
        if self._chosen is not None:
            self.post_message(self.Followed(self, self._links[self._chosen][3]))

    def action_text_page_up(self) -> None:
        self.scroll_page_up(animate=False)

    def action_text_page_down(self) -> None:
        self.scroll_page_down(animate=False)

    def action_text_first(self) -> None:
        self.scroll_home(animate=False)

    def action_text_last(self) -> None:
        self.scroll_end(animate=False)
