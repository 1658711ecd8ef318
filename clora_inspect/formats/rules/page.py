"""The page of one rule, as text for people. Pure text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.formats.look import Look, Style

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.base import Rule

WIDTH = 100
"""Columns where the terminal's are not known."""


def render(rule: type[Rule], look: Look | None = None) -> str:
    """`CL101 unmatched-target, targeting, error, since 0.1`; then what, why, bad, good, and the
    settings.
    """
    look = look or Look()
    dot = f" {look.glyphs.dot} "
    lines = [
        look.paint(
            dot.join([f"{rule.code} {rule.name}", rule.family, str(rule.severity), f"since {rule.since}"]), Style.BOLD
        )
    ]
    for paragraph in rule.page().split("\n\n"):
        lines += ["", *_paragraph(paragraph, look)]
    lines += ["", *(look.paint(line) for line in _facts(rule))]
    return "".join(f"{line}\n" for line in lines)


def settings_of(rule: type[Rule]) -> list[tuple[str, str]]:
    """Key and default of each setting, as they are written in the configuration."""
    defaults = msgspec.to_builtins(rule.settings())
    return [(key, "none" if value is None else msgspec.json.encode(value).decode()) for key, value in defaults.items()]


def _paragraph(paragraph: str, look: Look) -> Iterator[str]:
    """Wrapped text; each `Bad:` and `Good:` begins a line, and what follows it belongs to it."""
    items: list[str] = []
    for line in paragraph.splitlines():
        if items and not line.startswith(("Bad:", "Good:")):
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    for item in items:
        hanging = "       " if item.startswith(("Bad:", "Good:")) else ""
        shown = item.replace("Bad: ", "Bad:   ", 1) if item.startswith("Bad:") else item.replace("Good: ", "Good:  ", 1)
        wrapped = textwrap.wrap(
            shown,
            min(look.width or WIDTH, WIDTH),
            subsequent_indent=hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield from (look.paint(line) for line in wrapped)


def _facts(rule: type[Rule]) -> Iterator[str]:
    settings = settings_of(rule)
    if settings:
        yield f"Settings, under [rules.{rule.code}]:"
        yield from (f"  {key} = {value}" for key, value in settings)
    else:
        yield "Settings: none."
    yield f"Looks at: {rule.needs}."
    if rule.reference_only:
        yield 'Only for jobs with implementation = "megatron-bridge".'
