"""All rules as one page of Markdown: `docs/rules.md`. Pure text.

After a change of a rule's docstring write the page again:

python -m clora_inspect.formats.rules.catalogue > docs/rules.md
"""

from __future__ import annotations

import sys
from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.rules.page import settings_of
from clora_inspect.rules import all_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.base import Rule

HEAD = """\
# Rules

This page describes what `clora-inspect --check` looks for. Every finding has the code of its rule;
`clora-inspect explain CODE` prints the rule's entry of this page.

- Choose the rules that run with `--select`, `--ignore` and `--extend-select`: by code, by prefix
  (`CL1`) or by name.
- Change the settings of a rule under `[rules.CODE]` in the configuration.
- Allow a finding that is intended with an entry of `[[allow]]` that gives a reason.
"""


def render() -> str:
    """Write the page: a table of contents, then the rules family by family."""
    rules = all_rules()
    lines = [HEAD, *_contents(rules)]
    for family, members in groupby(rules, key=lambda rule: rule.family):
        lines.append(f"\n## {family[0].upper()}{family[1:]}\n")
        for rule in members:
            lines += _entry(rule)
    return "\n".join(lines).rstrip("\n") + "\n"


def _contents(rules: tuple[type[Rule], ...]) -> Iterator[str]:
    yield "| code | name | severity | looks at |"
    yield "|---|---|---|---|"
    for rule in rules:
        link = f"[{rule.code}](#{rule.code.lower()}-{rule.name})"
        only = " (Megatron-Bridge only)" if rule.reference_only else ""
        yield f"| {link} | {rule.name}{only} | {rule.severity} | {rule.needs} |"


def _entry(rule: type[Rule]) -> Iterator[str]:
    yield f"### {rule.code} {rule.name}\n"
    for paragraph in rule.page().split("\n\n"):
        # Two blanks at the end of a line break it in Markdown: each example starts a line.
        yield paragraph.replace("\nGood:", "  \nGood:") + "\n"
    for key, default in settings_of(rule):
        yield f"- `{key} = {default}`"
    if settings_of(rule):
        yield ""


if __name__ == "__main__":
    sys.stdout.write(render())
