"""Lists as on GitHub, where what belongs to an item is indented as far as its text. The Markdown of
the site wants four blanks a level.
"""

from __future__ import annotations

import re

ITEM = re.compile(r"(?:[-*+]|\d+[.)]) +(?=\S)")
FENCE = re.compile(r"(?:```|~~~)")


def four_blanks(markdown: str) -> str:
    """Return `markdown` with four blanks for each list that a line stands in."""
    lines: list[str] = []
    # Where the text of each open item begins, the outermost first.
    offsets: list[int] = []
    fence = ""
    for line in markdown.splitlines():
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if not text:
            lines.append("")
            continue
        follows_text = bool(lines and lines[-1].strip())
        item = None if fence else ITEM.match(text)
        # Inside a paragraph a number other than 1 is the end of a sentence.
        if item and follows_text and not offsets and text[0].isdigit() and not text.startswith("1."):
            item = None
        in_list = bool(offsets)
        # The rest of a paragraph may stand further left than it began.
        if not fence and (item or not follows_text or FENCE.match(text)):
            while offsets and indent < offsets[-1]:
                offsets.pop()
        if item and follows_text and not in_list:
            lines.append("")
        left = offsets[-1] if offsets else 0
        lines.append(" " * (4 * len(offsets)) + line[min(indent, left) :])
        if item:
            offsets.append(indent + item.end())
        if fence:
            fence = "" if text.startswith(fence) and not text.strip(fence[0] + " ") else fence
        elif opened := FENCE.match(text):
            fence = opened[0]
    return "\n".join(lines) + "\n"
