"""The styles of tones in the current theme: the tone `good` has the class `tone--good` of the style
sheet.

The classes belong to the screen, and its widgets ask the screen. Textual computes every component
class once for every widget that has it; when each of a dozen widgets had all tones, that took a
third of the time until the first frame.
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
"""Class of the cursor in a pane without the focus."""

TONE_CLASSES = {f"tone--{tone}" for tone in Tone if tone is not Tone.PLAIN} | {CURSOR, CURSOR_AWAY}
"""`COMPONENT_CLASSES` of every screen that shows tones."""

LEAST_CONTRAST = 4.5
"""The contrast of text that the Web Content Accessibility Guidelines (level AA) ask for."""

MIDDLE = 0.18
"""The luminance that has the same contrast to black and to white."""

STEPS = 20
"""Steps in which a colour is moved towards black or white until it can be read."""

_NOTHING = Style()


def segment(widget: Widget, span: Span, base: Style, over: Style | None = None) -> Segment:
    """Return a span in the colours of the screen. `over` goes on top, as the cursor does."""
    style = base if span.tone is Tone.PLAIN else base + tone_style(widget, f"tone--{span.tone}")
    return Segment(span.text, readable(style + over if over else style))


# A frame asks for a few dozen styles, some thousand times.
@lru_cache(maxsize=1024)
def readable(style: Style) -> Style:
    """Return `style` with enough contrast to be read, in the hue that the theme gave it.

    Several light themes have accent colours that cannot be read on their own backgrounds.
    """
    if style.color is None or style.bgcolor is None or not (style.color.triplet and style.bgcolor.triplet):
        return style
    text, ground = Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
    far = Color(0, 0, 0) if _luminance(ground) > MIDDLE else Color(255, 255, 255)
    step = 0
    # Step by step, so that the hue stays as near to the theme's as it can.
    while contrast(text, ground) < LEAST_CONTRAST and step < STEPS:
        step += 1
        text = Color.from_rich_color(style.color).blend(far, step / STEPS)
    return style + Style(color=text.rich_color) if step else style


def contrast(one: Color, other: Color) -> float:
    """Return the contrast of two colours as the Web Content Accessibility Guidelines define it:
    from 1 for equal colours to 21 for black on white.
    """
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: Color) -> float:
    """Return the relative luminance of an sRGB colour, from 0 to 1."""
    parts = (each / 255 for each in (color.r, color.g, color.b))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def tone_style(widget: Widget, name: str) -> Style:
    """Return what the class `name` of the style sheet sets; what it does not set stays unset."""
    # Textual may draw a widget once more while its screen goes.
    if not widget.is_attached:
        return _NOTHING
    screen = widget.screen
    own = screen.get_component_rich_style(name, partial=True)
    if own.color is None:
        return own
    # A colour that is partly transparent is mixed with the background in the full style alone.
    return own + Style(color=screen.get_component_rich_style(name).color)
