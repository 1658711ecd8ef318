"""Tones as the styles of a theme: the class `tone--good` of the style sheet is the tone `good`.

The screen has the classes, and its widgets ask it: Textual works out every class for every widget
that has it, and a dozen widgets with a dozen tones each took a third of the time until the first
frame.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from clora_inspect.tui.panes.lines import Tone

if TYPE_CHECKING:
    from textual.widget import Widget

    from clora_inspect.tui.panes.lines import Span

CURSOR = "tone--cursor"
CURSOR_AWAY = "tone--cursor-away"
"""The cursor of a pane that has not the focus."""

TONE_CLASSES = {f"tone--{tone}" for tone in Tone if tone is not Tone.PLAIN} | {CURSOR, CURSOR_AWAY}
"""`COMPONENT_CLASSES` of every screen with tones on it."""

LEAST_CONTRAST = 4.5
"""What the Web Content Accessibility Guidelines (level AA) ask of text of ordinary size."""

MIDDLE = 0.18
"""The luminance beside which black and white are equally far."""

STEPS = 20

_NOTHING = Style()


def segment(widget: Widget, span: Span, base: Style, over: Style | None = None) -> Segment:
    """A span in the colours of the screen of `widget`; `over` is laid on top, as the cursor is."""
    style = base if span.tone is Tone.PLAIN else base + tone_style(widget, f"tone--{span.tone}")
    return Segment(span.text, readable(style + over if over else style))


@lru_cache(maxsize=1024)
def readable(style: Style) -> Style:
    """`style` with its text so far from its background that it can be read, in the hue that the
    theme gave it.

    Several light themes have accents that their own backgrounds swallow.
    """
    if style.color is None or style.bgcolor is None or not (style.color.triplet and style.bgcolor.triplet):
        return style
    text, ground = Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
    far = Color(0, 0, 0) if _luminance(ground) > MIDDLE else Color(255, 255, 255)
    step = 0
    while contrast(text, ground) < LEAST_CONTRAST and step < STEPS:
        step += 1
        text = Color.from_rich_color(style.color).blend(far, step / STEPS)
    return style + Style(color=text.rich_color) if step else style


def contrast(one: Color, other: Color) -> float:
    """From 1 for equal colours to 21 for black on white, as the Web Content Accessibility
    Guidelines define it.
    """
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: Color) -> float:
    """Relative luminance of an sRGB colour."""
    parts = (each / 255 for each in (color.r, color.g, color.b))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def tone_style(widget: Widget, name: str) -> Style:
    """What a class of the style sheet sets, and nothing that it does not set."""
    if not widget.is_attached:
        return _NOTHING
    screen = widget.screen
    own = screen.get_component_rich_style(name, partial=True)
    if own.color is None:
        return own
    # A colour that is partly transparent is mixed with the background in the full style alone.
    return own + Style(color=screen.get_component_rich_style(name).color)
