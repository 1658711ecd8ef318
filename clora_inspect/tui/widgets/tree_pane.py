"""The model tree as a widget. `TreeModel` knows the rows; this draws those that can be seen."""

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
        """Another row is under the cursor, or the row was opened or closed."""

    class Entered(Message):
        """The user asks for the details of the row."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  # Textual's word
        super().__init__(id=id)
        self._scene: Scene | None = None
        self.cursor = 0
        """Number of the row under the cursor; 0 is the model itself."""

    @property
    def row(self) -> TreeRow | None:
        """The row under the cursor; None for the model itself."""
        if self._scene is None or not self.cursor:
            return None
        rows = self._scene.tree.rows()
        return rows[self.cursor - 1] if self.cursor <= len(rows) else None

    @property
    def text(self) -> str:
        """All rows as plain text."""
        return "\n".join("".join(span.text for span in self._line(number)).rstrip() for number in range(self._count()))

    def show(self, scene: Scene, path: str | None = None) -> None:
        """Show another scene, or the same scene after a change. If a row has the path `path`, the
        cursor goes there, else to the top; None leaves the cursor's number as it is.
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
        """Cells of a row: the width without the place of the scroll bar."""
        return self.scrollable_content_region.width

    def _count(self) -> int:
        return len(self._scene.tree.rows()) + 1 if self._scene else 0

    def _changed(self) -> None:
        count = self._count()
        self.virtual_size = Size(self._width, count)
        # There may be fewer rows than before.
        self.cursor = max(0, min(self.cursor, count - 1))
        self.refresh()

    def on_resize(self) -> None:
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
        """Draw row `y` of the visible part."""
        number = y + self.scroll_offset.y
        base = self.rich_style
        here = number == self.cursor and number < self._count()
        spans = self._line(number)
        if self._scene is not None and number == 1 and not self._scene.tree.rows():
            # The row of the model itself stays above it.
            spans = line(Span("  nothing matches; esc clears the filter", Tone.DIM))
        cursor = tone_style(self, CURSOR if self.has_focus else CURSOR_AWAY) if here else None
        segments = [segment(self, span, base, cursor) for span in spans]
        return Strip(segments).adjust_cell_length(self._width, base + cursor if cursor else base)

    def _move(self, to: int) -> None:
        to = max(0, min(to, self._count() - 1))
        if to != self.cursor:
            before, self.cursor = self.cursor, to
            # Two rows are drawn, not all: the tree follows a key that is held down.
            self.refresh_lines(before - self.scroll_offset.y, 1)
            self.refresh_lines(to - self.scroll_offset.y, 1)
            self.post_message(self.Moved())
        # Even if the cursor stays: it may have been scrolled away with the mouse.
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
        """Choose the row. A click on its triangle, or a double click, opens it; a double click on a
        row without children asks for its details.
        """
        offset = event.get_content_offset(self)
        if offset is None:
            return
        number = offset.y + self.scroll_offset.y
        if number >= self._count():
            return
        self._move(number)
        row = self.row
        # `tree_row` indents by two cells for each level, and writes the triangle there.
        on_mark = row is not None and row.depth * 2 <= offset.x < row.depth * 2 + 2
        # `chain` counts the clicks in quick succession.
        if on_mark or event.chain > 1:
            if row is not None and row.has_children:
                self._toggle()
            else:
                self.post_message(self.Entered())

    def action_up(self) -> None:
        self._move(self.cursor - 1)

    def action_down(self) -> None:
        self._move(self.cursor + 1)

    def action_close(self) -> None:
        """Close the row, or go to its parent if it is closed."""
        row = self.row
        if row is None or self._scene is None or self._toggle(to=False):
            return
        self._move(self._holder(self._scene.tree.rows(), self.cursor))

    @staticmethod
    def _holder(rows: list[TreeRow], number: int) -> int:
        """Return the number of the row that row `number` stands below; 0 for a top row."""
        depth = rows[number - 1].depth
        return next((above for above in range(number - 1, 0, -1) if rows[above - 1].depth < depth), 0)

    def action_open(self) -> None:
        """Open the row, or go to its first child if it is open."""
        row = self.row
        if row is None or row.is_open:
            self._move(self.cursor + 1)
        else:
            self._toggle(to=True)

    def action_open_or_close(self) -> None:
        self._toggle()

    def action_details(self) -> None:
        self.post_message(self.Entered())

    def action_unfold(self) -> None:
        """Give every layer (or expert) a row of its own, or fold them again. Below a layer, its own
        list of layers is meant.
        """
        row, scene = self.row, self._scene
        if row is None or scene is None:
            return
        nodes = scene.tree.nodes
        rows = scene.tree.rows()
        number = self.cursor
        while number and not nodes.names[rows[number - 1].node].isdigit():
            number = self._holder(rows, number)
        if number:
            # Unfolding makes other rows: the one of the same node is found again afterwards.
            chosen = rows[number - 1]
            scene.tree.unfold(chosen)
            shown = scene.tree.reveal(chosen.node)
            if shown is not None:
                self.go_to(shown)
            self._changed()
            self.post_message(self.Moved())

    def action_page_up(self) -> None:
        self._move(self.cursor - max(self.size.height - 1, 1))

    def action_page_down(self) -> None:
        self._move(self.cursor + max(self.size.height - 1, 1))

    def action_first(self) -> None:
        self._move(0)

    def action_last(self) -> None:
        self._move(self._count() - 1)
