"""The page of one rule, as text for people. Pure text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.formats.look import Look, Style

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.base import Rule

WIDEST = 100
"""Columns of a page, also on a wider terminal and in a pipe: longer lines are hard to read."""

_EXAMPLES = {"Bad:": "Bad:   ", "Good:": "Good:  "}
"""Word that begins an example in a docstring -> the same, padded so that both examples align."""


def render(rule: type[Rule], look: Look | None = None) -> str:
    """Write a heading such as `CL101 unmatched-target · targeting · error · since 0.1`, then the
    docstring of the rule and its settings.
    """
    look = look or Look()
    look = replace(look, width=min(look.width or WIDEST, WIDEST))
    heading = (f"{rule.code} {rule.name}", rule.family, str(rule.severity), f"since {rule.since}")
    lines = [look.paint(f" {look.glyphs.dot} ".join(heading), Style.BOLD)]
    for paragraph in rule.page().split("\n\n"):
        lines += ["", *_paragraph(paragraph, look)]
    lines += ["", *(look.paint(line) for line in _facts(rule))]
    return "".join(f"{line}\n" for line in lines)


def settings_of(rule: type[Rule]) -> list[tuple[str, str]]:
    """Return key and default of each setting, as the configuration would have them."""
    defaults = msgspec.to_builtins(rule.settings())
    return [(key, "none" if value is None else msgspec.json.encode(value).decode()) for key, value in defaults.items()]


def _paragraph(paragraph: str, look: Look) -> Iterator[str]:
    """Wrap `paragraph` for the terminal. Each example begins a line, and its text is indented."""
    items: list[str] = []
    for line in paragraph.splitlines():
        if items and not line.startswith(tuple(_EXAMPLES)):
            items[-1] += f" {line}"
        else:
            items.append(line)
    # Continuation lines were joined to their example above, so each item is one paragraph.
    for item in items:
        word = item.partition(" ")[0]
        lead = _EXAMPLES.get(word, "")
        yield from look.wrapped(item.removeprefix(word).lstrip() if lead else item, lead)


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
