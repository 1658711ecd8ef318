"""How text may look where it goes: its characters, colour and width. Decided once by the command
line; pure data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clora_inspect.formats.glyphs import UNICODE, Glyphs, harmless


class Style(StrEnum):
    """Select Graphic Rendition codes of a terminal. Never the only carrier of a meaning: a word
    always stands beside it.
    """

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"


@dataclass(frozen=True, slots=True)
class Look:
    """What the place that text goes to can show."""

    glyphs: Glyphs = UNICODE
    color: bool = False
    width: int | None = None
    """Columns of the terminal; None for a pipe or a file, where nothing is wrapped or left out."""

    def paint(self, line: str, style: Style = Style.PLAIN) -> str:
        """One printable line in `style`. Every line of every text passes here, so none can drive
        the terminal or add lines.
        """
        line = harmless(line).replace("\n", "\u240a")
        return f"\x1b[{style}m{line}\x1b[0m" if self.color and style and line else line
