"""Terminals that have no more than ASCII, or users who want no colour: nothing is lost, and nothing
slips through.
"""

from __future__ import annotations

import asyncio
import io
import re
from typing import TYPE_CHECKING

import pytest
from driving import NARROW, WIDE, opened, press
from golden_text import assert_golden, screen_text
from rich.cells import cell_len
from rich.console import Console

from clora_inspect.tui.widgets.filters import ascii_only

if TYPE_CHECKING:
    from pathlib import Path

    from textual.pilot import Pilot

    from clora_inspect.tui.app import InspectorApp

COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[\d;]*)?m")
"""Any code of a terminal that sets a colour, the default one left out."""

EVERYWHERE = (
    (),
    ("n",),
    ("2", "tab", "right"),
    ("3",),
    ("5",),
    ("question_mark",),
    ("w",),
    ("d",),
    ("n", "e"),
    ("ctrl+o",),
    ("ctrl+p",),
    ("x",),
    ("a",),
)


def drawn(app: InspectorApp) -> str:
    """Return the codes that a terminal of sixteen million colours gets for the whole screen."""
    width, height = app.size
    console = Console(
        width=width,
        height=height,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    # This process may have NO_COLOR for its own reasons: the console is to write whatever colour it
    # is given.
    console.no_color = False
    console.print(app.screen._compositor.render_update(full=True, screen_stack=app._background_screens), end="")
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


async def back(app: InspectorApp, pilot: Pilot[None]) -> None:
    while app.screen is not app.main:
        await press(pilot, "escape")
    app.main.model.focus()


@pytest.mark.parametrize(("plan", "size"), [("typo", WIDE), ("deepseek", NARROW)])
def test_in_ascii_no_screen_has_another_character(
    plan_files: dict[str, Path], plan: str, size: tuple[int, int]
) -> None:
    async def case() -> None:
        async with opened(plan_files[plan], size, ascii_only=True) as (app, pilot):
            for keys in EVERYWHERE:
                await press(pilot, *keys)
                shown = screen_text(app)
                assert shown.isascii(), (keys, sorted({each for each in shown if not each.isascii()}))
                assert max(map(len, shown.splitlines())) <= size[0]
                await back(app, pilot)

    asyncio.run(case())


def test_the_picture_in_ascii(plan_files: dict[str, Path]) -> None:
    async def case() -> str:
        async with opened(plan_files["typo"], WIDE, ascii_only=True) as (app, pilot):
            await press(pilot, "n")
            return screen_text(app)

    text = asyncio.run(case())
    assert "v decoder" in text
    assert "> % linear_fc1" in text
    assert_golden("screens/wide/module-ascii.txt", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "plain"), ("● a · b", "* a - b"), ("─▶ × 2 …", "-> x 2 ."), ("模型/é", "????/?"), ("a\u0301", "a")],
)
def test_what_has_no_likeness_keeps_its_width(text: str, expected: str) -> None:
    assert ascii_only(text) == expected
    assert cell_len(ascii_only(text)) == cell_len(text)


@pytest.mark.parametrize("how", ["environment", "option"])
def test_without_colour_no_screen_sets_one(
    plan_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)

    async def case() -> None:
        async with opened(plan_files["typo"], no_color=how == "option") as (app, pilot):
            for keys in EVERYWHERE if how == "environment" else EVERYWHERE[:1]:
                await press(pilot, *keys)
                assert COLOUR.search(drawn(app)) is None, keys
                await back(app, pilot)

    asyncio.run(case())


def test_with_colour_there_are_some(plan_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above could not fail."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, _):
            assert COLOUR.search(drawn(app))

    asyncio.run(case())


def test_the_picture_without_colour(plan_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor is reversed and the pane with the focus has a double border: both can be seen
    without a colour.
    """
    monkeypatch.setenv("NO_COLOR", "1")

    async def case() -> str:
        async with opened(plan_files["typo"], WIDE) as (app, pilot):
            await press(pilot, "n")
            return drawn(app)

    codes = asyncio.run(case())
    cursor = next(line for line in codes.split("linear_fc1") if "\x1b[" in line[-12:])
    assert "7m" in cursor[-12:]
    assert "╔═ Model" in re.sub(r"\x1b\[[\d;]*m", "", codes)
    assert_golden("screens/wide/module-no-color.ansi", codes.replace("\x1b", "\u241b"))


@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
def test_the_smallest_terminals_turn_pages_of_lists_without_a_line(
    plan_files: dict[str, Path], size: tuple[int, int]
) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"], size) as (app, pilot):
            await press(pilot, "ctrl+p", "pageup", "pagedown", "escape", "ctrl+o", "pageup", "pagedown")
            assert app.is_running

    asyncio.run(case())
