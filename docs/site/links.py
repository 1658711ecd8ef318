"""Links that lead somewhere on GitHub, and have to lead somewhere on the site as well."""

from __future__ import annotations

import re
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from re import Match

LOG = getLogger("mkdocs.hooks")
ROOT = Path(__file__).parents[2]

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

    A link to a file that is not there is a warning, which `--strict` makes an error.

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
        path = link["path"].removeprefix("../" * up)
        if not (ROOT / path).exists():
            LOG.warning("%s links to %s, which the repository does not have", page, link["path"])
        return f"]({repository}/blob/main/{path}{link['anchor'] or ''})"

    return UPWARDS.sub(pointed, text)
