"""Lines of a pane: pieces of text with a tone and, for links, the place they lead to.

A tone never carries a meaning alone: a word or a glyph says it too, so that `NO_COLOR` loses
nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, chop_cells

from clora_inspect.formats.glyphs import harmless

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tone(StrEnum):
    """The role of a piece of text; the theme decides its colours."""

    PLAIN = "plain"
    TITLE = "title"
    DIM = "dim"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    LINK = "link"
    KEY = "key"
    CHOSEN = "chosen"
    # From few trainable parameters on a rank to the most, in the Ranks pane.
    HEAT_1 = "heat-1"
    HEAT_2 = "heat-2"
    HEAT_3 = "heat-3"
    HEAT_4 = "heat-4"


class Target(StrEnum):
    """The kind of place a link leads to."""

    NODE = "node"
    """The value is a module's global path, with layers folded or not."""
    RANK = "rank"
    """The value is a global rank."""
    FINDING = "finding"
    """The value is the index of a finding in the Findings pane."""
    FILE = "file"
    """The value is `path:line`, which opens in an editor."""
    ACTION = "action"
    """The value is the name of an action of the screen."""


class Link(NamedTuple):
    target: Target
    value: str


class Span(NamedTuple):
    text: str
    tone: Tone = Tone.PLAIN
    link: Link | None = None


Line = tuple[Span, ...]
BLANK: Line = ()


def line(*pieces: str | Span) -> Line:
    """Build a line; a string becomes a piece in the plain tone.

    Control characters become visible: a module's name must not be able to drive the terminal.
    """
    # A newline becomes a visible sign, too: a line is exactly one row of the screen.
    spans = (piece if isinstance(piece, Span) else Span(piece) for piece in pieces)
    return tuple(span._replace(text=harmless(span.text).replace("\n", "\u240a")) for span in spans if span.text)


def plain(lines: Iterable[Line]) -> str:
    """Return the text without tones and links, as it is copied."""
    return "\n".join("".join(span.text for span in each).rstrip() for each in lines)


def width_of(pieces: Iterable[Span]) -> int:
    """Return the number of terminal cells that a line takes: a wide character takes two."""
    return sum(cell_len(span.text) for span in pieces)


def keep_end(text: str, width: int) -> str:
    """Cut `text` at the left to at most `width` cells: people read the end of a path first."""
    if cell_len(text) <= width:
        return text
    kept = ""
    # One cell for the ellipsis.
    used = 1
    for character in reversed(text):
        used += cell_len(character)
        if used > width:
            break
        kept = character + kept
    return "…" + kept if width > 0 else ""


def keep_start(text: str, width: int) -> str:
    """Cut `text` at the right to at most `width` cells."""
    if cell_len(text) <= width:
        return text
    return (chop_cells(text, width - 1)[0] if width > 1 else "") + "…" if width > 0 else ""


def wrapped(text: str, width: int, tone: Tone = Tone.PLAIN, *, lead: str = "") -> list[Line]:
    """Wrap `text` to at most `width` cells; a word that is longer is cut into pieces.

    `lead` stands before the first line; the others are indented by as much.
    """
    # `textwrap` counts characters, and a wide one takes two cells.
    indent = " " * cell_len(lead)
    # If the lead fills a tiny pane, lines may be wider: rows of one letter would be unreadable.
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
    return [line(Span(indent if number else lead, Tone.DIM), Span(row, tone)) for number, row in enumerate(rows)]


def labelled(label: str, text: str, width: int, tone: Tone = Tone.PLAIN, *, label_width: int = 12) -> list[Line]:
    """Wrap `text` beside a label, which stands in a column at the left."""
    return wrapped(text, width, tone, lead=label.ljust(label_width))
