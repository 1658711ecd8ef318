"""All rules as one page of Markdown, which is `docs/rules.md`. Pure text.

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

What `clora-inspect --check` looks for. A finding has the code of its rule; `clora-inspect explain CODE` prints one of these entries.
Select with `--select`, `--ignore` and `--extend-select` (codes, prefixes such as `CL1`, or names), set with `[rules.CODE]`, and allow
what is meant with an entry of `[[allow]]` that has a reason.
"""


def render() -> str:
    """The page, family after family, with a table of contents."""
    rules = sorted(all_rules(), key=lambda rule: rule.code)
    lines = [HEAD, *_contents(rules)]
    for family, members in groupby(rules, key=lambda rule: rule.family):
        lines.append(f"\n## {family[0].upper()}{family[1:]}\n")
        for rule in members:
            lines += _entry(rule)
    return "\n".join(lines).rstrip("\n") + "\n"


def _contents(rules: list[type[Rule]]) -> Iterator[str]:
    yield "| code | name | severity | looks at |"
    yield "|---|---|---|---|"
    for rule in rules:
        only = " (Megatron-Bridge only)" if rule.reference_only else ""
        yield f"| [{rule.code}](#{rule.code.lower()}-{rule.name}) | {rule.name}{only} | {rule.severity} | {rule.needs} |"


def _entry(rule: type[Rule]) -> Iterator[str]:
    yield f"### {rule.code} {rule.name}\n"
    for paragraph in rule.page().split("\n\n"):
        # A bad and a good example each get a line of their own.
        yield paragraph.replace("\nGood:", "  \nGood:") + "\n"
    for key, default in settings_of(rule):
        yield f"- `{key} = {default}`"
    if settings_of(rule):
        yield ""


if __name__ == "__main__":
    sys.stdout.write(render())
