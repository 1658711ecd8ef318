"""The hooks of `mkdocs build`: what the pages need beyond Markdown, so that they read as well on
GitHub.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from re import Match

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

FENCE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ ]*$", re.DOTALL | re.MULTILINE)
OUT_OF_DOCS = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs' signature
    """Point links to files outside `docs/` at the repository, where the site cannot show them."""
    return outside_fences(markdown, lambda text: OUT_OF_DOCS.sub(lambda link: _to_repository(link, page, config), text))


def outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Return `markdown` with `change` made of everything but fenced blocks."""
    parts, end = [], 0
    for block in FENCE.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])


def _to_repository(link: Match[str], page: Page, config: MkDocsConfig) -> str:
    parts = list(PurePosixPath("docs", page.file.src_uri).parent.parts)
    for part in link["path"].split("/"):
        if part == "..":
            if not parts:
                return link[0]
            parts.pop()
        elif part:
            parts.append(part)
    if parts[:1] == ["docs"]:
        return link[0]
    return f"]({config.repo_url}/blob/main/{'/'.join(parts)}{link['anchor'] or ''})"
