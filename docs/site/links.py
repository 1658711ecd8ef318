"""Links that lead somewhere on GitHub, and have to lead somewhere on the site as well."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from re import Match

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+)[^\n]*\n.*?^(?P=indent)(?P=fence) *$", re.DOTALL | re.MULTILINE)
UPWARDS = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Return `markdown` with `change` made of everything but fenced blocks."""
    parts, end = [], 0
    for block in FENCE.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def to_repository(text: str, page: str, repository: str) -> str:
    """Point links to files outside `docs/`, which the site does not have, at the repository.

    Args:
        text: Markdown without fenced blocks.
        page: path of the page in `docs/`.
        repository: its address on the web.
    """

    def pointed(link: Match[str]) -> str:
        folders = ["docs", *page.split("/")[:-1]]
        up = link["path"].count("../")
        if up < len(folders):
            return link[0]
        return f"]({repository}/blob/main/{link['path'].removeprefix('../' * up)}{link['anchor'] or ''})"

    return UPWARDS.sub(pointed, text)
