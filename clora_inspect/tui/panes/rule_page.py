"""Turn the page of a rule, which is Markdown, into lines for its screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.tui.panes.lines import BLANK, Line, Span, Tone, line, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = {"Bad": Tone.BAD, "Good": Tone.GOOD}
"""Words that begin an example of one line, `Bad: ...`."""

BLOCKS = ("```", "#", "- ", *(f"{word}:" for word in EXAMPLES))
"""Beginnings of lines that end the paragraph before them."""


def rule_page_lines(page: str, width: int) -> list[Line]:
    """Return headings, paragraphs wrapped to `width` cells, and code without wrapping."""
    lines: list[Line] = []
    in_code = False
    for text in _joined(page):
        if text.startswith("```"):
            in_code = not in_code
        elif in_code:
            # Code is cut and not wrapped: a wrapped line of TOML means something else.
            lines.append(line(Span(f"    {text}"[:width], Tone.GOOD)))
        elif text.startswith("#"):
            lines.append(line(Span(text.lstrip("# "), Tone.TITLE)))
        elif text:
            lines += _paragraph(text, width)
        else:
            lines.append(BLANK)
    return lines


def _joined(page: str) -> Iterator[str]:
    """Yield the lines of the page, those of a paragraph joined to one."""
    paragraph, in_code = "", False
    for row in page.splitlines():
        text = row.rstrip()
        if text and paragraph and not in_code and not text.startswith(BLOCKS):
            paragraph += f" {text.strip()}"
            continue
        if paragraph:
            yield paragraph
            paragraph = ""
        if text.startswith("```"):
            in_code = not in_code
        if in_code or not text or text.startswith(("```", "#")):
            yield text
        else:
            paragraph = text
    if paragraph:
        yield paragraph


def _paragraph(text: str, width: int) -> list[Line]:
    """Wrap a paragraph. An example has its verdict in a column at the left, so that the good one
    stands right below the bad one.
    """
    verdict, colon, example = text.partition(": ")
    if not colon or verdict not in EXAMPLES:
        return wrapped(text, width)
    return wrapped(example.replace("`", ""), width, EXAMPLES[verdict], lead=f"{verdict:<6}")
