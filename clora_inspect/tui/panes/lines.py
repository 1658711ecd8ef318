"""Lines of a pane: text, what it means (its tone), and where a click or Enter on it leads. Pure
data.

A tone is never the only carrier of a meaning: a word or a glyph stands beside it, so that
`NO_COLOR` loses nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, chop_cells

from clora_inspect.formats.glyphs import harmless

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tone(StrEnum):
    """What a piece of text is. The theme decides the colours."""

    PLAIN = "plain"
    TITLE = "title"
    DIM = "dim"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    LINK = "link"
    KEY = "key"
    CHOSEN = "chosen"
    HEAT_1 = "heat-1"
    HEAT_2 = "heat-2"
    HEAT_3 = "heat-3"
    HEAT_4 = "heat-4"


class Target(StrEnum):
    """The kind of place a link leads to."""

    NODE = "node"
    """A module's global path, layers folded or not."""
    RANK = "rank"
    """A global rank."""
    FINDING = "finding"
    """A finding, by its number in the pane."""
    RULE = "rule"
    """A rule's code."""
    FILE = "file"
    """`path:line`, to be opened in an editor."""
    ACTION = "action"
    """An action of `keys`."""


class Link(NamedTuple):
    """Where a piece of text leads."""

    target: Target
    value: str


class Span(NamedTuple):
    """A piece of a line."""

    text: str
    tone: Tone = Tone.PLAIN
    link: Link | None = None


Line = tuple[Span, ...]
BLANK: Line = ()


def line(*pieces: str | Span) -> Line:
    """A line of pieces; strings are plain tone. Control characters become visible: a module's name
    cannot drive the terminal.
    """
    spans = (piece if isinstance(piece, Span) else Span(piece) for piece in pieces)
    return tuple(span._replace(text=harmless(span.text).replace("\n", "\u240a")) for span in spans if span.text)


def plain(lines: Iterable[Line]) -> str:
    """The text alone, as it is copied or read aloud."""
    return "\n".join("".join(span.text for span in each).rstrip() for each in lines)


def width_of(pieces: Iterable[Span]) -> int:
    """Cells that a line takes."""
    return sum(cell_len(span.text) for span in pieces)


def keep_end(text: str, width: int) -> str:
    """`text` in at most `width` cells. What is cut goes at the left, because the end of a path says
    what it is.
    """
    if cell_len(text) <= width:
        return text
    kept = ""
    used = 1
    for character in reversed(text):
        used += cell_len(character)
        if used > width:
            break
        kept = character + kept
    return "…" + kept if width > 0 else ""


def keep_start(text: str, width: int) -> str:
    """`text` in at most `width` cells, cut at the right."""
    if cell_len(text) <= width:
        return text
    return (chop_cells(text, width - 1)[0] if width > 1 else "") + "…" if width > 0 else ""


def wrapped(text: str, width: int, tone: Tone = Tone.PLAIN, *, lead: str = "", hang: str | None = None) -> list[Line]:
    """`text` on lines of at most `width` cells, broken between words; a word that is too long is
    cut into pieces.

    The first line stands behind `lead`, the others behind `hang` (blanks of the same width when
    None).
    """
    hang = " " * cell_len(lead) if hang is None else hang
    room = max(width - cell_len(lead), 8)
    rows: list[str] = []
    current = ""
    for word in text.split():
        joined = f"{current} {word}" if current else word
        if cell_len(joined) <= room:
            current = joined
            continue
        if current:
            rows.append(current)
        *full, current = chop_cells(word, room)
        rows += full
    rows.append(current)
    return [line(Span(hang if number else lead, Tone.DIM), Span(row, tone)) for number, row in enumerate(rows)]


def labelled(label: str, text: str, width: int, tone: Tone = Tone.PLAIN, *, label_width: int = 12) -> list[Line]:
    """A label in a column of its own, its text wrapped beside it."""
    return wrapped(text, width, tone, lead=label.ljust(label_width))
