"""The few characters beyond ASCII that text uses, with an ASCII spelling for each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Spellings of the signs in one character set."""

    arrow: str
    times: str
    dot: str
    dash: str


UNICODE = Glyphs(arrow="→", times="\u00d7", dot="·", dash=" \u2013 ")
ASCII = Glyphs(arrow="->", times="x", dot="-", dash=" to ")

# Control characters become their pictures (U+2400 and on). C1 codes, line separators and the marks
# that turn the direction of text have no picture: they could hide or reorder what a reader sees.
_REPLACED = {code: 0x2400 + code for code in range(0x20) if code != 0x0A} | {0x7F: 0x2421}
_REPLACED |= dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)


def harmless(text: str) -> str:
    """Return `text` with each control character replaced by one visible character.

    Newlines stay. Names come from saved plans and from configurations of other people, and must not
    be able to drive the terminal.
    """
    return text.translate(_REPLACED)
