"""All rules for the terminal, one a line. Pure text."""

from __future__ import annotations

from itertools import groupby

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.rules import all_rules

COLUMNS = (Column("code"), Column("name"), Column("severity", spare=1), Column("looks at", spare=2))


def render(look: Look | None = None) -> str:
    """Return a table of all rules, family by family, ending in a newline."""
    look = look or Look()
    lines: list[Line] = []
    for family, rules in groupby(all_rules(), key=lambda rule: rule.family):
        lines.append(Line((family,), Style.BOLD))
        for rule in rules:
            only = ", Megatron-Bridge only" if rule.reference_only else ""
            lines.append(Line((rule.code, rule.name, str(rule.severity), f"{rule.needs}{only}")))
    return "".join(
        f"{line}\n" for line in (*table(COLUMNS, lines, look), "", "One of them: clora-inspect explain CODE")
    )
