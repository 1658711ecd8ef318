"""The site: built strictly and whole, every name on the page that is to have it."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import click
import pytest
from site_build import ROOT, built

import clora
import clora.bridge
import clora_inspect
from clora import errors
from clora_inspect.cli.root import root
from clora_inspect.exit_code import ExitCode
from clora_inspect.rules import all_rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# One worker builds the site, and all its tests look at it.
pytestmark = pytest.mark.xdist_group("site")

SCHEMA = json.loads((ROOT / "schemas" / "clora-inspect.schema.json").read_text(encoding="utf-8"))


class Html(HTMLParser):
    """The text of a page, its ids, and the addresses that a browser loads by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.links: set[str] = set()
        self.prose = ""
        """The text of the page itself, without code."""
        self._text: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("article", "pre", "code", "script", "h1", "h2", "h3", "td"):
            self._open.append(tag)
        self.ids.add(given.get("id", ""))
        if tag == "a":
            self.links.add(given.get("href", ""))
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given.get("href", ""))
        else:
            self.loaded += [value for name, value in given.items() if name in ("src", "srcset", "data", "poster")]

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1:] == [tag]:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._text.append(data)
        if self._open == ["article"]:
            self.prose += data


def page(site: Path, path: str) -> Html:
    return Html(site / path / "index.html")


def commands(context: click.Context) -> Iterator[click.Context]:
    assert isinstance(context.command, click.Group)
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context, **command.context_settings)
        yield below
        if isinstance(command, click.Group):
            yield from commands(below)


def test_every_rule_has_a_page_that_the_index_links(site: Path) -> None:
    index = page(site, "rules")
    for rule in all_rules():
        assert f"{rule.code}/" in index.links
        text = page(site, f"rules/{rule.code}").text
        assert f"{rule.code} {rule.name}" in text
        assert f"{rule.severity} " in text
        assert f"looks at {rule.needs}" in text
        examples = [line for line in rule.page().splitlines() if line.startswith(("Bad:", "Good:"))]
        assert examples
        assert all(word in text for word in ("Bad", "Good"))


def test_codes_and_links_to_the_rules_on_one_page_lead_to_their_pages(site: Path) -> None:
    source = (ROOT / "docs" / "forward-time-errors.md").read_text(encoding="utf-8")
    assert "(rules.md#cl417-fast-paths)" in source
    assert "../rules/CL417/" in page(site, "forward-time-errors").links
    assert "../rules/CL101/" in page(site, "pains").links


def test_every_command_and_option_has_an_entry(site: Path) -> None:
    top = click.Context(root, info_name="clora-inspect", **root.context_settings)
    seen = 0
    for context in [top, *commands(top)]:
        words = context.command_path.split()[1:]
        held = page(site, "/".join(["reference/command-line", *words[:1]]))
        assert context.command_path in held.text
        for option in context.command.get_params(context):
            # Every command has --help: it is named once, before the commands.
            if isinstance(option, click.Option) and (option.name != "help" or context is top):
                name = max(option.opts, key=len).lstrip("-")
                assert f"{'-'.join(words) or 'root'}-{name}" in held.ids, (context.command_path, name)
                assert all(flag in held.text for flag in (*option.opts, *option.secondary_opts))
                assert " ".join((option.help or "").split()) in held.text
                assert not option.envvar or str(option.envvar) in held.text
                seen += 1
    assert seen > 400


def test_every_exit_status_is_in_the_table(site: Path) -> None:
    text = (ROOT / "docs" / "reference" / "command-line" / "index.md").read_text(encoding="utf-8")
    assert all(f"\n| {status.value} | " in text for status in ExitCode)


def schema_keys(name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(SCHEMA["$defs"][name]["properties"].items())


@pytest.mark.parametrize("table", [name for name, each in SCHEMA["$defs"].items() if each.get("type") == "object"])
def test_every_key_is_described(site: Path, table: str) -> None:
    held = page(site, "reference/configuration")
    text = held.text.lower()
    for key, node in schema_keys(table):
        assert any(each == key.lower() or each.endswith(f"-{key.lower()}") for each in held.ids), key
        description = node.get("description") or SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]["description"]
        assert " ".join(description.replace("`", "").lower().split()).rstrip(".") in text, key
        if isinstance(node.get("default"), (str, int, float)):
            assert f"default: {json.dumps(node['default']).lower()}." in text


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("reference/clora", [f"clora.{name}" for name in clora.__all__]),
        ("reference/clora", [f"clora.bridge.{name}" for name in clora.bridge.__all__]),
        (
            "reference/clora",
            [f"clora.errors.{name}" for name in vars(errors) if name.endswith("Error") and name not in clora.__all__],
        ),
        (
            "reference/clora-inspect",
            [
                f"clora_inspect.{name}"
                for name in dir(clora_inspect)
                if name[0] != "_" and name in vars(clora_inspect)["_MODULE_OF"]
            ],
        ),
        (
            "reference/clora-inspect",
            # A module and its function are both called virtual_cluster.
            [
                f"clora_inspect.virtual.{name}"
                for name in ("virtual_megatron", "virtual_cluster.virtual_cluster", "megatron_on")
            ],
        ),
        ("reference/clora-inspect", ["clora_inspect.pytest_plugin.clora_snapshot"]),
    ],
)
def test_every_public_name_is_described(site: Path, path: str, names: list[str]) -> None:
    assert names
    assert set(names) <= page(site, path).ids


def test_no_page_shows_its_markdown(site: Path) -> None:
    """Where GitHub sees a list, a table or a fence, the site must see one as well."""
    shown = [
        (str(path.relative_to(site)), line)
        for path in site.rglob("*.html")
        for line in Html(path).prose.splitlines()
        if re.search(r"`|\*\*\w|\]\(|\|-{3}|<!--|^ *(:::|!!!|#{2,}|[-*]|\d+\.) ", line)
    ]
    assert shown == []


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    paths = list(site.rglob("*.html"))
    assert len(paths) > 150
    loaded = {address for path in paths for address in Html(path).loaded}
    assert loaded
    assert [address for address in loaded if address.startswith(("http:", "https:", "//"))] == []
    styles = " ".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert "url(http" not in styles.replace('"', "")
    assert "@import" not in styles


def test_what_the_theme_would_load_is_replaced(site: Path) -> None:
    """The theme asks for diagrams and for the stars of the repository by itself."""
    texts = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    assert sum('class="md-source"' in text for text in texts) > 150
    assert not any('data-md-component="source"' in text for text in texts)
    diagrams = [text for text in texts if '<pre class="mermaid">' in text]
    assert diagrams
    assert all("site/vendor/mermaid.tiny.js" in text for text in diagrams)


def test_lists_nest_as_on_github() -> None:
    sys.path.append(str(ROOT / "docs" / "site"))
    from lists import four_blanks

    written = """\
Text before
- a list that no blank line sets apart
  goes on, and

  has a second paragraph
  1. two blanks are enough
     ```console
     $ ls
       - no item
     ```
10. ten has
    - four
lazy
end

A number of
16. is no item
"""
    assert (
        four_blanks(written)
        == """\
Text before

- a list that no blank line sets apart
    goes on, and

    has a second paragraph
    1. two blanks are enough
        ```console
        $ ls
          - no item
        ```
10. ten has
    - four
        lazy
        end

A number of
16. is no item
"""
    )


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_pages_above_lead_somewhere(name: str) -> None:
    """The site holds the links of docs/, but these pages are none of its own."""
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", re.sub(r"(?ms)^```.*?^```", "", text))
    assert links or name == "CHANGELOG.md"
    for path, anchor in links:
        target = ROOT / path if path else ROOT / name
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)", target.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}, anchor


FAULTY = """\
# A page with a fault in each line

[Missing page](missing.md)

[Missing anchor](index.md#nothing)

[Missing file of the repository](../nowhere/file.py)

<!-- site: nonsense -->
"""


def test_faults_fail_the_build(tmp_path: Path) -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n", encoding="utf-8")
    (docs / "a.md").write_text(FAULTY, encoding="utf-8")
    (docs / "left-out.md").write_text("# Left out of the navigation\n", encoding="utf-8")
    # The site's own settings, with these pages in place of its own.
    settings = config[: config.index("\nnav:")].replace("docs_dir: docs", f"docs_dir: {docs}")
    settings = settings.replace("docs/site/", f"{ROOT}/docs/site/") + "\nnav: [index.md, a.md]\n"
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    ran = built(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert ran.returncode != 0
    said = ran.stderr + ran.stdout
    assert "'missing.md', but the target is not found among documentation files" in said
    assert "does not contain an anchor '#nothing'" in said
    assert "a.md links to ../nowhere/file.py, which the repository does not have" in said
    assert "a.md: <!-- site: nonsense --> is not known" in said
    assert "left-out.md" in said
