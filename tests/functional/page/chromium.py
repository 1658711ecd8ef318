"""Chromium of the system, driven by playwright. It must ask for nothing and say nothing."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Flags with which Chromium runs as root and without a screen, and sends nothing of its own."""

PATIENCE = 120_000
"""Milliseconds that Chromium may take to start, and for each action: a machine may be busy."""


class Chromium:
    """One running browser. Each page gets a profile of its own."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @contextmanager
    def page(self, path: Path, *, at: str = "", is_refused: bool = False, **context: Any) -> Iterator[Any]:
        """Open the file in `path`; fail if it asks for anything else, or the console says a word.

        Args:
            path: the page.
            at: the fragment of its address.
            is_refused: whether its policy must refuse something, which the console says.
            context: options of the profile, such as `color_scheme="dark"`.
        """
        said: list[str] = []
        asked: list[str] = []
        refused: list[str] = []
        profile = self._browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        try:
            page = profile.new_page()
            page.set_default_timeout(PATIENCE)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            # What the policy refuses is announced, and never sent.
            page.on("requestfailed", lambda request: request.failure == "csp" and refused.append(request.url))
            page.goto(f"{path.as_uri()}{at and '#'}{at}")
            yield page
        finally:
            profile.close()
        refusals = [text for text in said if "Content Security Policy" in text]
        assert said == refusals
        assert bool(refusals) == is_refused
        # What the policy refuses is announced, and never sent.
        if is_refused:
            asked = [url for url in asked if url not in refused]
        assert {url.partition("#")[0] for url in asked} == {path.as_uri()}


def wait_until(page: Any, expression: str, seconds: float = PATIENCE / 1000) -> None:
    """Wait until `expression` is true in `page`.

    Playwright's own `wait_for_function` evaluates text in the page, which its policy refuses.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Start the browser, for pages that are one file."""
    with launched() as browser:
        yield Chromium(browser)


@contextmanager
def launched() -> Iterator[Any]:
    """Start a browser. Without one, or without playwright, skip the test; in CI fail."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    if program is None:
        _missing("no Chromium is installed: apt-get install chromium fonts-dejavu")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET), timeout=PATIENCE)
        try:
            yield browser
        finally:
            browser.close()


def _missing(reason: str) -> None:
    # In CI a skip would go unnoticed.
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
