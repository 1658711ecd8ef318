"""The few characters beyond ASCII that we print, and what replaces them where they cannot be shown.
Pure text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set of characters."""

    arrow: str
    times: str
    dot: str
    dash: str


UNICODE = Glyphs(arrow="→", times="\u00d7", dot="·", dash=" \u2013 ")
ASCII = Glyphs(arrow="->", times="x", dot="-", dash=" to ")

_REPLACED = {code: 0x2400 + code for code in range(0x20) if code != 0x0A} | {0x7F: 0x2421}
_REPLACED |= dict.fromkeys((*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)


def harmless(text: str) -> str:
    """`text` with control characters made visible, one for one: a saved plan or a target cannot
    drive the terminal.
    """
    return text.translate(_REPLACED)
