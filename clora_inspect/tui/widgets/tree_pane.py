"""The model tree as a widget. It draws only the rows that are on the screen; what they are is
`TreeModel`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from clora_inspect.tui.panes.lines import BLANK, Line, Span, Tone, line
from clora_inspect.tui.panes.tree_row import root_line, row_line
from clora_inspect.tui.widgets.actions import Context
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.styles import CURSOR, CURSOR_AWAY, segment, tone_style

if TYPE_CHECKING:
    from textual import events
    from textual.binding import BindingType

    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow


class TreePane(ScrollView, can_focus=True):
    """Rows with a cursor. Row 0 is the model itself."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.TREE)]

    class Moved(Message):
        """The cursor stands on another row."""

    class Entered(Message):
        """The details of the row are wanted."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's word
        """An empty tree."""
        super().__init__(id=id)
        self._scene: Scene | None = None
        self.cursor = 0

    @property
    def row(self) -> TreeRow | None:
        """The row under the cursor; None for the model itself."""
        if self._scene is None or not self.cursor:
            return None
        rows = self._scene.tree.rows()
        return rows[self.cursor - 1] if self.cursor <= len(rows) else None

    @property
    def text(self) -> str:
        """The rows as plain text."""
        return "\n".join("".join(span.text for span in self._line(number)).rstrip() for number in range(self._count()))

    def show(self, scene: Scene, path: str | None = None) -> None:
        """Show another scene, or the same after a change; the cursor goes to the row of `path`
        where there is one.
        """
        self._scene = scene
        if path is not None:
            self.cursor = next((number for number, row in enumerate(scene.tree.rows(), 1) if row.path == path), 0)
        self._changed()

    def go_to(self, row: TreeRow) -> None:
        """Put the cursor on a row of the tree."""
        if self._scene is not None:
            self._changed()
            rows = self._scene.tree.rows()
            self._move(next((number for number, each in enumerate(rows, 1) if each.key == row.key), 0))

    @property
    def _width(self) -> int:
        """Cells of a row: what the scroll bar, or its empty place, leaves."""
        return self.scrollable_content_region.width

    def _count(self) -> int:
        return len(self._scene.tree.rows()) + 1 if self._scene else 0

    def _changed(self) -> None:
        count = self._count()
        self.virtual_size = Size(self._width, count)
        self.cursor = max(0, min(self.cursor, count - 1))
        self.refresh()

    def on_resize(self) -> None:
        """Keep the cursor in sight."""
        self._changed()
        self._reveal()

    def _line(self, number: int) -> Line:
        scene = self._scene
        if scene is None:
            return BLANK
        width = self._width
        rows = scene.tree.rows()
        if not number:
            return root_line(scene, width)
        if number <= len(rows):
            return row_line(scene, rows[number - 1], width)
        return BLANK

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        number = y + self.scroll_offset.y
        base = self.rich_style
        here = number == self.cursor and number < self._count()
        spans = self._line(number)
        if self._scene is not None and number == 1 and not self._scene.tree.rows():
            spans = line(Span("  nothing matches; esc clears the filter", Tone.DIM))
        cursor = tone_style(self, CURSOR if self.has_focus else CURSOR_AWAY) if here else None
        segments = [segment(self, span, base, cursor) for span in spans]
        return Strip(segments).adjust_cell_length(self._width, base + cursor if cursor else base)

    def _move(self, to: int) -> None:
        to = max(0, min(to, self._count() - 1))
        if to != self.cursor:
            before, self.cursor = self.cursor, to
            self.refresh_lines(before - self.scroll_offset.y, 1)
            self.refresh_lines(to - self.scroll_offset.y, 1)
            self.post_message(self.Moved())
        self._reveal()

    def _reveal(self) -> None:
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False, force=True)

    def _toggle(self, *, to: bool | None = None) -> bool:
        row = self.row
        if self._scene is None or row is None or not row.has_children or to is row.is_open:
            return False
        self._scene.tree.toggle(row, to=to)
        self._changed()
        self.post_message(self.Moved())
        return True

    def on_click(self, event: events.Click) -> None:
        """Choose the row; a click on its mark, or a second one, opens it."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        number = offset.y + self.scroll_offset.y
        if number >= self._count():
            return
        self._move(number)
        row = self.row
        on_mark = row is not None and row.depth * 2 <= offset.x < row.depth * 2 + 2
        if on_mark or event.chain > 1:
            if row is not None and row.has_children:
                self._toggle()
            else:
                self.post_message(self.Entered())

    def action_up(self) -> None:
        """Go up a row."""
        self._move(self.cursor - 1)

    def action_down(self) -> None:
        """Go down a row."""
        self._move(self.cursor + 1)

    def action_close(self) -> None:
        """Close the row, or go to what it stands in."""
        row = self.row
        if row is None or self._scene is None or self._toggle(to=False):
            return
        rows = self._scene.tree.rows()
        above = (number for number in range(self.cursor - 1, 0, -1) if rows[number - 1].depth < row.depth)
        self._move(next(above, 0))

    def action_open(self) -> None:
        """Open the row, or go to its first."""
        row = self.row
        if row is None or (row.is_open and not self._toggle(to=True)):
            self._move(self.cursor + 1)
        else:
            self._toggle(to=True)

    def action_open_or_close(self) -> None:
        """Open or close the row."""
        self._toggle()

    def action_details(self) -> None:
        """Go to the details."""
        self.post_message(self.Entered())

    def action_unfold(self) -> None:
        """Give every layer a row of its own, or fold them again. Inside a layer it is the layer's
        list that is meant.
        """
        row, scene = self.row, self._scene
        if row is None or scene is None:
            return
        nodes = scene.tree.nodes
        rows = scene.tree.rows()
        place = self.cursor
        while place and not nodes.names[rows[place - 1].node].isdigit():
            depth = rows[place - 1].depth
            place = next((number for number in range(place - 1, 0, -1) if rows[number - 1].depth < depth), 0)
        if place:
            chosen = rows[place - 1]
            scene.tree.unfold(chosen)
            shown = scene.tree.reveal(chosen.node)
            if shown is not None:
                self.go_to(shown)
            self._changed()
            self.post_message(self.Moved())

    def action_page_up(self) -> None:
        """Go up a page."""
        self._move(self.cursor - max(self.size.height - 1, 1))

    def action_page_down(self) -> None:
        """Go down a page."""
        self._move(self.cursor + max(self.size.height - 1, 1))

    def action_first(self) -> None:
        """Go to the first row."""
        self._move(0)

    def action_last(self) -> None:
        """Go to the last row."""
        self._move(self._count() - 1)
