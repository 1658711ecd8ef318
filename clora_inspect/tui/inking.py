"""Inks as the styles of a theme: the class `ink--good` of the style sheet is the ink `good`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style

from clora_inspect.tui.ink import Ink

if TYPE_CHECKING:
    from textual.widget import Widget

    from clora_inspect.tui.ink import Span

CURSOR = "ink--cursor"
INK_CLASSES = {f"ink--{ink}" for ink in Ink} | {CURSOR}


def segment(widget: Widget, span: Span, base: Style, over: Style | None = None) -> Segment:
    """A span in the colours of `widget`; `over` is laid on top, as the cursor is."""
    style = base + ink_style(widget, f"ink--{span.ink}")
    return Segment(span.text, style + over if over else style)


def ink_style(widget: Widget, name: str) -> Style:
    """What a class of the style sheet sets, and nothing that it does not set."""
    own = widget.get_component_rich_style(name, partial=True)
    if own.color is None:
        return own
    # A colour that is partly transparent is mixed with the background in the full style alone.
    return own + Style(color=widget.get_component_rich_style(name).color)
