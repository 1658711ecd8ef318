"""Inks as the styles of a theme: the class `ink--good` of the style sheet is the ink `good`.

The screen has the classes, and its widgets ask it: Textual works out every class for every widget that has it, and a dozen widgets with
a dozen inks each took a third of the time until the first frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style

from clora_inspect.tui.ink import Ink

if TYPE_CHECKING:
    from textual.widget import Widget

    from clora_inspect.tui.ink import Span

CURSOR = "ink--cursor"
CURSOR_AWAY = "ink--cursor-away"
"""The cursor of a pane that has not the focus."""

INK_CLASSES = {f"ink--{ink}" for ink in Ink if ink is not Ink.PLAIN} | {CURSOR, CURSOR_AWAY}
"""`COMPONENT_CLASSES` of every screen with inks on it."""

_NOTHING = Style()


def segment(widget: Widget, span: Span, base: Style, over: Style | None = None) -> Segment:
    """A span in the colours of the screen of `widget`; `over` is laid on top, as the cursor is."""
    style = base if span.ink is Ink.PLAIN else base + ink_style(widget, f"ink--{span.ink}")
    return Segment(span.text, style + over if over else style)


def ink_style(widget: Widget, name: str) -> Style:
    """What a class of the style sheet sets, and nothing that it does not set."""
    if not widget.is_attached:
        return _NOTHING
    screen = widget.screen
    own = screen.get_component_rich_style(name, partial=True)
    if own.color is None:
        return own
    # A colour that is partly transparent is mixed with the background in the full style alone.
    return own + Style(color=screen.get_component_rich_style(name).color)
