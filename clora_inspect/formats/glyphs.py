"""The few characters beyond ASCII that text uses, with an ASCII spelling for each."""

from __future__ import annotations

import json
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

_HIDDEN = (
    *range(0x80, 0xA0),  # C1 codes, which drive old terminals
    *(0xAD, 0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),  # soft hyphen, joiners and fillers without a width
    *(0x61C, 0x180E, 0xFEFF),
    *range(0x200B, 0x2010),  # blanks without a width, and marks of direction
    *range(0x2028, 0x202F),  # separators of lines, and what turns the direction of text
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),  # selectors of variants
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),  # tags
)
"""Characters that a reader does not see, and that could hide or reorder what they do see."""

# Control characters become their pictures (U+2400 and on); what is hidden has no picture.
_REPLACED = {code: 0x2400 + code for code in range(0x20) if code != 0x0A} | {0x7F: 0x2421}
_REPLACED |= dict.fromkeys(_HIDDEN, 0xFFFD)

_ESCAPED = {code: json.dumps(chr(code))[1:-1] for code in (0x7F, *_HIDDEN)} | {0x7F: "\\u007f"}


def harmless(text: str) -> str:
    """Return `text` with each control character replaced by one visible character.

    Newlines stay. Names come from saved plans and from configurations of other people, and must not
    be able to drive the terminal.
    """
    return text.translate(_REPLACED)


JSON = frozenset({"json", "jsonl", "sarif", "model-explorer", "model-explorer-graph"})
"""Formats that are JSON. The others replace themselves what could drive a terminal."""


def harmless_json(text: str) -> str:
    """Return a JSON text with each hidden character escaped: it means the same to a program, and
    shows what it holds to a reader.

    Characters beyond ASCII stand only inside the strings of a JSON text.
    """
    return text if text.isascii() and "\x7f" not in text else text.translate(_ESCAPED)
