"""How text may look at its destination: characters, colour and width. The command line decides
once, when it starts.

The colours and `table` are written by hand, although rich is installed with the interface.
Measured on one core with rich 15, the best of 25 runs: importing `rich.console` and `rich.table`
adds 20 to 30 ms of processor time to commands that take 61 ms (`--help`), 120 ms (`explain`),
159 ms (`diff`) and 218 ms (`--check` with every plan cached). A table of 2,000 rows takes rich
1.2 s and `table` 0.013 s. Rich would save little code: it shrinks columns instead of leaving the
least important ones out, has no row that spans all columns, and pads every line with blanks.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from clora_inspect.formats.glyphs import UNICODE, Glyphs, harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NARROWEST = 40
"""Columns below which text is not wrapped any further."""


class Style(StrEnum):
    """Codes of a terminal's `ESC [ ... m` sequence (Select Graphic Rendition).

    A word always says the same as the colour, so that text without colour loses nothing.
    """

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"


@dataclass(frozen=True, slots=True)
class Look:
    """The abilities of the place where a text goes: characters, colour and width."""

    glyphs: Glyphs = UNICODE
    color: bool = False
    width: int | None = None
    """Columns of the terminal. None for a pipe or a file: nothing is wrapped or left out there."""

    def paint(self, line: str, style: Style = Style.PLAIN) -> str:
        """Return `line` in `style`, its control characters made visible.

        Every line of every text passes here: a module's name or a saved plan must not be able to
        drive the terminal or to add lines.
        """
        line = harmless(line).replace("\n", "\u240a")
        return f"\x1b[{style}m{line}\x1b[0m" if self.color and style and line else line

    def shape(self, sizes: Sequence[int]) -> str:
        """Write a tensor's shape as `4 × 4096`."""
        return f" {self.glyphs.times} ".join(map(str, sizes))

    def wrapped(self, text: str, lead: str = "", style: Style = Style.PLAIN) -> Iterator[str]:
        """Yield `text` in lines that fit the terminal; in one line if the width is not known.

        `lead` stands before the first line; the others are indented by as much.
        """
        lines = [text]
        if self.width is not None:
            room = max(self.width - len(lead), NARROWEST)
            # Module paths stay whole: a user copies them, and the terminal wraps what is too long.
            lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
        for number, line in enumerate(lines):
            yield self.paint((lead if number == 0 else " " * len(lead)) + line, style)
