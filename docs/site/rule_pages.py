"""The pages of the rules on the site: an index by family, and a page for each.

`docs/rules.md` has all of them in one page, for readers on GitHub; here the index takes its place.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.rules.catalogue import HEAD
from clora_inspect.formats.rules.page import settings_of
from clora_inspect.rules import all_rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from re import Match

    from clora_inspect.rules.base import Rule

IN_ONE_PAGE = "rules.md"
INDEX = "rules/index.md"
EXAMPLES = {"Bad:": ("failure", "Bad"), "Good:": ("success", "Good")}
"""Word that begins an example in a docstring -> the admonition that shows it, and its title."""

TO_ONE_PAGE = re.compile(r"(?<=[(/])rules\.md(?:#(?P<code>cl\d{3})-[\w-]+)?(?=\))")
MENTION = re.compile(
    r"`+[^`]*`+|\[[^]]*\]\([^)]*\)|^#[^\n]*|<!--.*?-->|\b(?P<code>CL\d{3})\b", re.MULTILINE | re.DOTALL
)
"""The code of a rule in prose. Code, links, headings and comments match first, and stay."""


def pages() -> dict[str, str]:
    """Return path in `docs/` -> Markdown, of the index and of every rule."""
    return {INDEX: _index(), **{_path(rule): _page(rule) for rule in all_rules()}}


def nav() -> list[str | dict[str, object]]:
    """Return the entries of the navigation: the index, then the rules by family."""
    return [
        INDEX,
        *(
            {_title(family): [{f"{rule.code} {rule.name}": _path(rule)} for rule in members]}
            for family, members in _families()
        ),
    ]


def link_rules(text: str, root: str, own: str) -> str:
    """Link the codes in prose with their pages, and links to `docs/rules.md` as well.

    Args:
        text: Markdown without fenced blocks.
        root: what leads from the page to `docs/`: "" or "../".
        own: the code that the page is about, which is not linked.
    """
    known = {rule.code for rule in all_rules()} - {own}

    def linked(mention: Match[str]) -> str:
        code = mention["code"]
        return f"[{code}]({root}rules/{code}.md)" if code in known else mention[0]

    def moved(link: Match[str]) -> str:
        return f"rules/{link['code'].upper()}.md" if link["code"] else INDEX

    return MENTION.sub(linked, TO_ONE_PAGE.sub(moved, text))


def _families() -> Iterator[tuple[str, list[type[Rule]]]]:
    for family, members in groupby(all_rules(), key=lambda rule: rule.family):
        yield family, list(members)


def _title(family: str) -> str:
    return family[0].upper() + family[1:]


def _path(rule: type[Rule]) -> str:
    return f"rules/{rule.code}.md"


def _severity(rule: type[Rule]) -> str:
    return f"*{rule.severity}*{{ .severity .{rule.severity} }}"


def _index() -> str:
    lines = [HEAD.replace("prints the rule's entry of this page", "prints the rule's page")]
    for family, members in _families():
        lines += [f"## {_title(family)}\n", "| rule | finds |", "|---|---|"]
        for rule in members:
            first = " ".join(rule.page().partition("\n\n")[0].split()).replace("|", "\\|")
            lines.append(f"| [{rule.code}]({rule.code}.md)&nbsp;{_severity(rule)}<br>{rule.name} | {first} |")
        lines.append("")
    return "\n".join(lines)


def _page(rule: type[Rule]) -> str:
    family = f"[{_title(rule.family)}](index.md#{rule.family.replace(' ', '-')})"
    facts = f"{_severity(rule)} {family} · looks at {rule.needs} · since {rule.since}"
    lines = [f"# {rule.code} {rule.name}\n", f"{facts}\n{{ .facts }}\n"]
    for paragraph in rule.page().split("\n\n"):
        lines += _examples(paragraph) if paragraph.startswith(tuple(EXAMPLES)) else [f"{paragraph}\n"]
    if rule.reference_only:
        lines.append('Only for jobs with `implementation = "megatron-bridge"`.\n')
    if settings := settings_of(rule):
        lines += [
            "## Settings\n",
            f"Under `[rules.{rule.code}]` of the [configuration](../reference/configuration.md):\n",
        ]
        lines += ["| key | default |", "|---|---|", *(f"| `{key}` | `{default}` |" for key, default in settings), ""]
    return "\n".join([*lines, *_allowing(rule)])


def _examples(paragraph: str) -> Iterator[str]:
    for line in re.split(r"\n(?=(?:Bad|Good):)", paragraph):
        word, _, text = line.partition(" ")
        kind, title = EXAMPLES[word]
        yield f'!!! {kind} "{title}"'
        yield "    " + " ".join(text.split()) + "\n"


def _allowing(rule: type[Rule]) -> Iterator[str]:
    yield "## If it is meant\n"
    yield "Allow the finding, with the reason, or do not run the rule:\n"
    yield '```toml title="clora-inspect.toml"'
    yield "[[allow]]"
    yield f'rule = "{rule.code}"'
    yield 'where = "decoder.layers.0.*"  # left out: everywhere'
    yield 'reason = "why this is right here"'
    yield ""
    yield "[check]"
    yield f'ignore = ["{rule.code}"]'
    yield "```\n"
    yield f"`clora-inspect explain {rule.code}` prints this page.\n"
