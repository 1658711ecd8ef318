"""The hooks of `mkdocs build`: what the site has beyond the Markdown in `docs/`, which reads as
well on GitHub.

- Pages of rules and of commands are made from the catalogue and from click, see `rule_pages` and
  `command_line`. In `nav:` of mkdocs.yml their index stands for all of them.
- A comment in a page stands for what is generated there: `<!-- site: commands -->`, `<!-- site:
  keys -->`, `<!-- site: api NAME ... -->`.
- Lists nest as on GitHub, see `lists`.
- Links to files outside `docs/` lead to the repository, and codes of rules to their pages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import command_line
import configuration
import rule_pages
from links import LOG, outside_fences, to_repository
from lists import four_blanks
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from re import Match

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

NAV = {rule_pages.IN_ONE_PAGE: rule_pages.nav, command_line.INDEX: command_line.nav}
"""Page in `nav:` -> the entries that take its place."""

MERMAID = "site/vendor/mermaid.tiny.js"
"""Release 11.17.1 of Mermaid without its rarer diagrams: the one file of the npm package
`@mermaid-js/tiny`. Its licence (MIT) is beside it.
"""

GENERATED = re.compile(r"^<!-- site: (?P<what>\w+)(?P<names>[^>]*?) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Complete the navigation by the generated pages."""
    config.nav = _completed(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the generated pages; those of the rules take the place of `docs/rules.md`."""
    if (one_page := files.get_file_from_path(rule_pages.IN_ONE_PAGE)) is not None:
        files.remove(one_page)
    named = set(_paths(config.nav))
    for generator in (rule_pages, command_line):
        if generator.INDEX in named:
            for path, markdown in generator.pages().items():
                files.append(File.generated(config, path, content=markdown))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs' signature
    """Put in what is generated, and let links lead somewhere on the site."""
    path = page.file.src_uri
    own = path.removeprefix("rules/").removesuffix(".md")

    def linked(text: str) -> str:
        return rule_pages.link_rules(to_repository(text, path, str(config.repo_url)), "../" * path.count("/"), own)

    whole = GENERATED.sub(lambda mark: _generated(mark, path), four_blanks(markdown))
    return outside_fences(whole, linked)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs' signature
    """Mark the home page for the style sheet, and give it the whole width."""
    if not page.is_homepage:
        return html
    page.meta["hide"] = ["navigation", "toc"]
    return f'<div class="home">{html}</div>'


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001 - mkdocs' signature
    """Load what draws diagrams into pages that have some, for which the theme asks another host."""
    # The theme's dialog has no name for readers of screens.
    output = output.replace('role="dialog">', 'role="dialog" aria-label="Search">')
    if '<pre class="mermaid">' not in output:
        return output
    script = get_relative_url(MERMAID, page.url)
    return output.replace("</head>", f'<script src="{script}"></script></head>', 1)


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Any) -> None:  # noqa: ARG001 - mkdocs' signature
    """Lead from a page that is generated to what it is made of."""
    path = page.file.src_uri
    if path.startswith("rules/"):
        page.edit_url = f"{config.repo_url}/tree/main/clora_inspect/rules"
    elif path.startswith("reference/command-line/") and path != command_line.INDEX:
        page.edit_url = f"{config.repo_url}/tree/main/clora_inspect/cli/commands"


def _completed(nav: Any) -> Any:
    """Return `nav` with each index of `NAV` replaced by its entries, at any depth."""
    if isinstance(nav, list):
        return [_completed(entry) for entry in nav]
    if isinstance(nav, dict):
        return {
            title: NAV[below]() if isinstance(below, str) and below in NAV else _completed(below)
            for title, below in nav.items()
        }
    return nav


def _paths(nav: Any) -> Iterator[str]:
    """Yield the pages that `nav` names, at any depth."""
    if isinstance(nav, str):
        yield nav
    for below in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _paths(below)


def _generated(mark: Match[str], path: str) -> str:
    if mark["what"] == "commands":
        return command_line.table()
    if mark["what"] == "keys":
        return configuration.keys()
    if mark["what"] == "api":
        return "\n\n".join(f"::: {name}" for name in mark["names"].split())
    LOG.warning("%s: %s is not known; there are commands, keys and api", path, mark[0])
    return ""
