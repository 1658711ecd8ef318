"""The page of `clora-inspect report` in a real browser. It needs playwright and a Chromium."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture
def page(saved_plan: Path, tmp_path: Path) -> Iterator[Any]:
    """The page, opened from its file; it must say nothing to the console and request nothing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = tmp_path / "report.html"
    assert main(["report", str(saved_plan), "-q", "--no-progress", "-o", str(path)]) == 0
    said: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(path.as_uri())
        yield opened
        browser.close()
    assert said == []
    assert {url.partition("#")[0] for url in asked} == {path.as_uri()}


def test_filter_fold_and_sort(page: Any) -> None:
    gate = page.locator('li[data-path$="linear_fc1[gate]"]')
    assert not gate.is_visible()
    page.keyboard.press("/")
    page.keyboard.type("linear_fc1[gate]")
    assert gate.is_visible()
    assert not page.locator('li[data-path$="linear_proj"]').is_visible()
    assert "modules shown: 1" in page.inner_text('[id="go:shown"]')
    page.fill('[id="go:filter"]', "")
    assert not gate.is_visible()
    page.click('[id="go:unfold"]')
    assert gate.is_visible()
    page.click('[id="go:fold"]')
    assert not gate.is_visible()
    head = page.locator('[id="go:adapters:table"] thead th').last
    numbers = page.locator('[id="go:adapters:table"] tbody tr td:last-child')
    for order, down in (("ascending", False), ("descending", True)):
        head.locator("button").press("Enter")
        assert head.get_attribute("aria-sort") == order
        shown = [int(text.replace(",", "")) for text in numbers.all_inner_texts()]
        assert shown == sorted(shown, reverse=down)
        assert len(set(shown)) > 1


def test_links_lead_to_modules_of_any_layer(page: Any) -> None:
    page.evaluate("location.hash = '#decoder.layers.3.mlp.linear_fc1[up]'")
    page.wait_for_selector(".found")
    assert page.locator(".found").get_attribute("data-path") == "decoder.layers.{0..3}.mlp.linear_fc1[up]"
    assert page.locator(".found").is_visible()
    page.evaluate("location.hash = '#decoder.layers.4.mlp'")
    page.wait_for_timeout(100)
    assert page.locator(".found").count() == 0


def test_the_theme_changes_and_nothing_overflows(page: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click('[id="go:theme"]')
    assert page.evaluate(colour) == light == "rgb(255, 255, 255)"
    page.click('[id="go:theme"]')
    assert page.evaluate(colour) == "rgb(22, 24, 29)"
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
