"""The site in a real browser: it asks no other host, draws its diagrams, finds and copies."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from axe import axe_findings
from chromium import launched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("site")

SHOWN = ("", "rules/", "rules/CL105/", "reference/command-line/plan/", "reference/clora/", "how-it-works/plan/")


class Quiet(SimpleHTTPRequestHandler):
    """Serves the site and prints nothing."""

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as running:
        yield running


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that must say nothing to the console and ask nothing of another host."""
    said: list[str] = []
    asked: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["clipboard-read"])
    opened = context.new_page()
    opened.set_default_timeout(120_000)
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    context.close()
    assert said == []
    assert asked
    # A diagram is drawn as an image that the page itself holds.
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_pages_ask_no_other_host_and_do_not_overflow(page: Any, address: str) -> None:
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        for path in SHOWN:
            page.goto(address + path, wait_until="load")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Any, address: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    for path in ("", "how-it-works/plan/"):
        page.goto(address + path)
        # The theme puts a nameless landmark around each copy button.
        assert axe_findings(page, without=("landmark-unique",)) == [], path


def test_a_diagram_is_drawn(page: Any, address: str) -> None:
    page.goto(address + "how-it-works/plan/")
    # The theme replaces the text of a diagram by a box that holds its drawing.
    page.wait_for_selector("div.mermaid", state="attached")
    assert page.locator("pre.mermaid").count() == 0
    assert page.locator("div.mermaid").first.bounding_box()["height"] > 50


def test_the_copy_button_takes_the_commands_alone(page: Any, address: str) -> None:
    page.goto(address)
    block = page.locator(".language-console", has_text="clora-inspect check llama3-8b").first
    block.locator("[data-clipboard-target], .md-clipboard").first.click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.length > 0)")
    copied = page.evaluate("navigator.clipboard.readText()")
    lines = [line for line in copied.splitlines() if line.strip()]
    assert lines == ["clora-inspect check llama3-8b --target-modules q_proj,linear_v --no-snapshot", "echo $?"]


def test_the_search_finds_an_option(page: Any, address: str) -> None:
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("unmatched-target")
    page.wait_for_selector(".md-search-result__item a")
    links = page.locator(".md-search-result__item a").evaluate_all("all => all.map(each => each.getAttribute('href'))")
    assert any("rules/CL101/" in link for link in links)
