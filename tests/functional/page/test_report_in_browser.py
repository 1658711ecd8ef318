"""The page of `clora-inspect report` in Chromium: each page may request nothing and may write
nothing to the console.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from axe import axe_findings
from chromium import Chromium, chromium, wait_until
from hostile_names import HOSTILE, renamed
from written_pages import ProvedPages, write_page

from clora_inspect.job.plan import encode, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
FOLLOW = """hash => new Promise(done => {
    addEventListener("hashchange", () => setTimeout(() => done(document.querySelector(".found")?.dataset.path)), {once: true});
    location.hash = hash;
})"""
"""Follows a link; gives the path of the entry that it opens."""
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(22, 24, 29)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Chromium, small_page: Path) -> Iterator[Any]:
    with browser.page(small_page) as opened:
        yield opened


def focused(page: Any) -> str:
    """Return the id, the label or the text of the focused element."""
    return str(
        page.evaluate(
            "(() => { const at = document.activeElement;"
            " return at.id || at.getAttribute('aria-label') || at.textContent.trim() })()"
        )
    )


def test_the_filter_finds_rows_and_modules(page: Any) -> None:
    gate = page.locator('li[data-path$="linear_fc1[gate]"]')
    assert not gate.is_visible()
    page.keyboard.press("/")
    page.keyboard.type("linear_fc1[gate]")
    assert gate.is_visible()
    assert not page.locator('li[data-path$="linear_proj"]').is_visible()
    assert page.inner_text('[id="go:shown"]') == "rows shown: 1, modules shown: 1"
    row = page.locator('[id="go:base:table"] tbody tr', has_text="linear_fc1[gate]")
    assert row.is_visible(), "the folded table that has the row is unfolded"
    page.fill('[id="go:filter"]', "linear_fc1_up attention")
    assert page.inner_text('[id="go:shown"]') == "rows shown: 0, modules shown: 0"
    page.fill('[id="go:filter"]', "LINEAR_FC1_UP")
    shown = page.locator('[id="go:adapters:table"] tbody tr').all()
    assert [row.is_visible() for row in shown].count(True) == 1
    assert not page.locator('[id="go:cluster:rows:table"]').is_visible(), "it has no such row"
    assert not page.locator('[id="go:cluster:rows:caption"]').is_visible()
    page.fill('[id="go:filter"]', "")
    assert all(row.is_visible() for row in shown)
    assert not gate.is_visible()
    assert not row.is_visible()


def test_modules_fold_by_mouse_and_by_arrow_keys(page: Any) -> None:
    gate = page.locator('li[data-path$="linear_fc1[gate]"]')
    page.click('[id="go:unfold"]')
    assert gate.is_visible()
    page.click('[id="go:fold"]')
    assert not gate.is_visible()
    top = page.locator(".tree > li:has(> details) summary").first
    top.focus()
    path = top.evaluate("each => each.closest('li').dataset.path")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    below = "document.activeElement.closest('li').dataset.path"
    assert page.evaluate(below).startswith(f"{path}.")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(below) == path
    assert top.evaluate("each => each.parentElement.open")
    page.keyboard.press("ArrowLeft")
    assert not top.evaluate("each => each.parentElement.open")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(below) == path


def test_tables_sort_by_numbers_and_by_words(page: Any) -> None:
    table = '[id="go:adapters:table"]'
    for column, read in ((-1, lambda text: int(text.replace(",", ""))), (0, str)):
        head = page.locator(f"{table} thead th").nth(column)
        cells = page.locator(f"{table} tbody tr > :nth-{'last-' if column else ''}child(1)")
        for order, down in (("ascending", False), ("descending", True)):
            head.locator("button").press("Enter")
            assert head.get_attribute("aria-sort") == order
            assert page.locator(f"{table} th[aria-sort]").count() == 1
            shown = [read(text) for text in cells.all_inner_texts()]
            assert shown == sorted(shown, reverse=down)
            assert len(set(shown)) > 1


def test_links_lead_to_modules_of_any_layer_and_to_rules(browser: Chromium, small_page: Path) -> None:
    with browser.page(small_page, at="decoder.layers.3.mlp.linear_fc1[up]") as page:
        found = page.locator(".found")
        assert found.get_attribute("data-path") == "decoder.layers.{0..3}.mlp.linear_fc1[up]"
        assert found.is_visible()
        assert found.evaluate("each => each.contains(document.activeElement)"), "Tab goes on from there"
        assert 0 <= found.bounding_box()["y"] < 200
        page.evaluate("location.hash = '#decoder.layers.4.mlp'")
        wait_until(page, "document.querySelector('.found') === null")
        # A filter must not hide what a link leads to.
        page.fill('[id="go:filter"]', "linear_proj")
        page.evaluate("location.hash = '#decoder.layers.0.mlp.linear_fc2'")
        page.wait_for_selector(".found")
        assert found.is_visible()
        rule = page.locator(".finding h3 a").first
        code = rule.inner_text()
        rule.click()
        wait_until(page, f"document.getElementById('{code}').open")


def test_links_lead_to_layers_that_no_pattern_names(browser: Chromium, tmp_path: Path) -> None:
    has_experts = [1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1]
    words = ("--isolated", "--set", "model.num_layers=14", "--set", f"model.moe_layer_freq={has_experts}")
    written = write_page("report", "qwen3-30b-a3b", *words, path=tmp_path / "report.html")
    with browser.page(written.path) as page:
        assert page.locator(".tree").get_by_text("layers.{9 of 0..13}").is_visible(), (
            "the name of the layers does not say which"
        )
        for number, experts in enumerate(has_experts):
            for name, is_there in (("experts.linear_fc2", experts), ("linear_fc2", not experts)):
                found = page.evaluate(FOLLOW, f"#decoder.layers.{number}.mlp.{name}")
                assert (found or "").endswith(f".mlp.{name}") == bool(is_there), (number, name)
                if found:
                    layers = found.split("{")[1].partition("}")[0].split(",")
                    assert any(int(run.split("..")[0]) <= number <= int(run.split("..")[-1]) for run in layers)


def test_the_theme_is_the_systems_and_a_button_changes_it(browser: Chromium, small_page: Path) -> None:
    for scheme, colours in (("light", (LIGHT, DARK, LIGHT, LIGHT)), ("dark", (DARK, LIGHT, DARK, DARK))):
        with browser.page(small_page, color_scheme=scheme) as page:
            shown = [page.evaluate(BACKGROUND)]
            for _ in range(3):
                page.click('[id="go:theme"]')
                shown.append(page.evaluate(BACKGROUND))
            assert tuple(shown) == colours
            assert page.inner_text('[id="go:theme"]') == "Theme: system"


def test_the_summary_is_copied(browser: Chromium, small_page: Path) -> None:
    with browser.page(small_page, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.click('[id="go:copy"]')
        wait_until(page, "document.getElementById('go:copy').textContent === 'Copied'")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator('[id="go:paste"]').text_content()
        assert "trainable params: " in copied


def test_the_keyboard_reaches_all_in_order_and_shows_where_it_is(page: Any) -> None:
    visited = []
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        visited.append(focused(page))
        assert page.evaluate(
            "(() => { const at = document.activeElement, style = getComputedStyle(at);"
            " return at.matches(':focus-visible') && style.outlineStyle !== 'none' && style.opacity !== '0' })()"
        ), visited[-1]
    assert visited[0] == "Skip to the report"
    in_order = ["go:filter", "go:unfold", "go:theme", "go:paste", "go:copy", "Link to decoder", "go:by:bytes"]
    assert [each for each in visited if each in in_order] == in_order
    assert "target" in visited, "heads of columns sort"
    page.locator('[id="go:by:bytes"]').focus()
    page.keyboard.press("ArrowRight")
    assert focused(page) == "go:by:params"


def test_the_cluster_is_shaded_by_what_is_chosen(browser: Chromium, large_page: Path) -> None:
    read = """rows => rows.map(row => [
        getComputedStyle(row.querySelector(".cell")).backgroundColor, row.querySelector("td.n").innerText,
    ])"""
    with browser.page(large_page) as page:
        for measure, name, text in (
            ("bytes", "weights, gradients and Adam's states", r"[\d.]+ [MG]iB"),
            ("params", "all parameters", r"[\d,]+"),
            ("trained", "trainable parameters", r"[\d,]+"),
        ):
            page.check(f'[id="go:by:{measure}"]')
            rows = page.locator(".map tbody tr").evaluate_all(read)
            assert len(rows) == 16
            assert all(re.fullmatch(text, number) for _, number in rows)
            # The first stage has dense layers, the last one a single layer; the others are alike.
            assert len({tuple(row) for row in rows[1:15]}) == 1
            assert len({colour for colour, _ in rows}) == len({number for _, number in rows}) == 3
            assert page.inner_text(".map thead th:last-child") == name
            assert f"{rows[1][1]} of {name}." in page.inner_text('[id="go:map:caption"]')


def test_nothing_is_wider_than_the_screen(browser: Chromium, small_page: Path, proved_pages: ProvedPages) -> None:
    for path in (small_page, proved_pages.check.path):
        for width in (1280, 400):
            with browser.page(path) as page:
                page.set_viewport_size({"width": width, "height": 900})
                page.click('[id="go:unfold"]')
                assert page.evaluate("document.documentElement.scrollWidth") == width


def test_paper_is_light_and_shows_all_that_is_folded(browser: Chromium, small_page: Path) -> None:
    for scripts in (True, False):
        with browser.page(small_page, color_scheme="dark", java_script_enabled=scripts) as page:
            before = page.locator("details[open]").count() if scripts else 0
            page.emulate_media(media="print")
            if scripts:
                assert page.evaluate(BACKGROUND) == LIGHT
            for text in ("linear_fc1", "[gate]", "Trainable parameters in numbers"):
                assert page.get_by_text(text).first.is_visible(), text
            assert page.locator('li[data-path$="linear_fc1[gate]"]').is_visible()
            for hidden in ("nav", ".tools", '[id="go:copy"]', ".switch"):
                assert not page.locator(hidden).is_visible(), hidden
            assert page.pdf().startswith(b"%PDF")
            if scripts:
                assert page.locator("details[open]").count() == before


def test_the_page_is_whole_without_its_script(browser: Chromium, small_page: Path) -> None:
    with browser.page(small_page) as with_script:
        words = with_script.evaluate("document.querySelector('main').textContent")
    with browser.page(small_page, java_script_enabled=False) as page:
        main = page.locator("main").text_content()
        assert "".join(main.split()) == "".join(words.split())
        assert not page.locator(".tools").is_visible(), "controls that would do nothing"
        page.locator(".tree summary").nth(2).click()
        assert page.locator(".tree details[open]").count() >= 2
        # The switch of the map needs no script.
        page.check('[id="go:by:trained"]')
        assert page.inner_text(".map thead th:last-child") == "trainable parameters"


def test_the_policy_stops_what_is_injected(browser: Chromium, small_page: Path, tmp_path: Path) -> None:
    injected = (
        "<script>document.title = 'ran'</script>"
        "<img src='http://127.0.0.1:9/x.png' onerror=\"document.title = 'ran'\">"
        "<style>body { display: none }</style><p style='display: none' id='styled'>shown</p>"
        "<form action='http://127.0.0.1:9/'><button id='sent'>send</button></form>"
    )
    path = tmp_path / "injected.html"
    path.write_text(small_page.read_text().replace("</main>", f"{injected}</main>"))
    with browser.page(path, is_refused=True) as page:
        assert page.title() != "ran"
        assert page.locator("#styled").is_visible()
        page.evaluate("document.getElementById('sent').click()")
        page.wait_for_timeout(100)
        assert page.url == path.as_uri()


def test_hostile_names_are_text(browser: Chromium, saved_plan: Path, tmp_path: Path) -> None:
    plan = load(saved_plan)
    # The first ones end an element or an attribute; the others are tried without a browser, too.
    for number, name in enumerate((*HOSTILE[:4], " ".join(HOSTILE))):
        saved = tmp_path / f"{number}.json"
        saved.write_bytes(encode(renamed(plan, name)))
        path = write_page("report", str(saved), path=tmp_path / f"{number}.html").path
        with browser.page(path) as page:
            dialogs: list[str] = []
            page.on("dialog", lambda dialog, dialogs=dialogs: dialogs.append(dialog.message))
            page.click('[id="go:unfold"]')
            assert page.locator("script").count() == 1
            assert page.locator("main img, main iframe, main script, svg[onload]").count() == 0
            # Each link leads to an element of the page, whatever its name.
            page.locator(".tree a.name").first.click()
            # The page hears of the new address a moment after the click.
            page.wait_for_selector(".found", state="attached")
            assert page.locator(".found").count() == 1
            assert dialogs == []


SCREENS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 400, "height": 900}},
}


# The largest page takes seconds on each screen.
PAGES = [
    *[(name, screen) for name in ("small", "check") for screen in SCREENS],
    ("large", "light"),
    *[pytest.param("large", screen, marks=pytest.mark.nightly) for screen in ("dark", "narrow")],
]


@pytest.mark.parametrize(("name", "screen"), PAGES)
def test_axe_finds_nothing(
    browser: Chromium, name: str, screen: str, small_page: Path, large_page: Path, proved_pages: ProvedPages
) -> None:
    path = {"small": small_page, "large": large_page, "check": proved_pages.check.path}[name]
    with browser.page(path, **SCREENS[screen]) as page:
        page.click('[id="go:unfold"]')
        assert axe_findings(page) == []
