"""What the terminal cannot show, or the user does not want, is taken out of every line last of all:
characters beyond ASCII, colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from textual.filter import LineFilter

if TYPE_CHECKING:
    from textual.color import Color

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
    """`text` in as many cells, without any character beyond ASCII: `●` is `*`, a letter that has no
    likeness is `?`.
    """
    if text.isascii():
        return text
    text = text.translate(_TABLE)
    return text if text.isascii() else "".join(each if each.isascii() else "?" * cell_len(each) for each in text)


class AsciiOnly(LineFilter):
    """For a terminal or a font that has nothing else. Borders, glyphs and names alike."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002  # Textual's signature
        """The same line in ASCII."""
        return [Segment(ascii_only(text), style, control) for text, style, control in segments]


class Colourless(LineFilter):
    """For `NO_COLOR`: bold, underlined and reversed text stay, and no colour at all, where
    Textual's own filter leaves greys.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        """The same line without colours."""
        return [Segment(text, style.without_color if style else None, control) for text, style, control in segments]
