"""Filters of drawn lines, for terminals without more than ASCII and users without colours.

Textual applies them last of all, so nothing slips through, its own borders included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from textual.filter import LineFilter

if TYPE_CHECKING:
    from textual.color import Color

# Our glyphs, and those of Textual's borders and scroll bars, with what takes their places.
_PAIRS = (
    ("●◐○⊘·", "*%ox-"),  # what becomes of a module, and the dot between words
    ("▼▶▸◆", "v>>@"),
    ("✖▲ℹ↕✔", "X!i~+"),
    ("→←↑↓×…", "><^vx."),
    ("\u2013\u2014", "--"),
    ("░▒▓█", ":=%#"),  # the heat map, from a little to the most
    ("─━═│┃║", "-==|||"),
    ("╭╮╰╯┌┐└┘┏┓┗┛╔╗╚╝├┤┬┴┼", "+" * 21),
    ("▁▂▃▄▅▆▇▀▔", " " * 9),  # the ends of a scroll bar's thumb
    ("▏▎▍▌▋▊▉▐▕", "|" * 9),
)
_TABLE = {ord(one): other for ones, others in _PAIRS for one, other in zip(ones, others, strict=True)}


def ascii_only(text: str) -> str:
    """Return `text` in as many cells, in ASCII: `●` becomes `*`, and what has no likeness `?`."""
    if text.isascii():
        return text
    text = text.translate(_TABLE)
    return text if text.isascii() else "".join(each if each.isascii() else "?" * cell_len(each) for each in text)


class AsciiOnly(LineFilter):
    """Writes everything in ASCII: borders, glyphs and names."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002  # Textual's signature
        """Return the line in ASCII."""
        return [Segment(ascii_only(text), style, control) for text, style, control in segments]


class Colourless(LineFilter):
    """Takes all colours out, for `NO_COLOR`. Bold, underlined and reversed text stays.

    Textual's own filter turns colours into greys, which are colours, too.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        """Return the line without colours."""
        return [Segment(text, style.without_color if style else None, control) for text, style, control in segments]
