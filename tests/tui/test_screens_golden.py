"""Every screen as golden text, wide and narrow, and the screens of the documentation as pictures.

The same plan gives the same bytes on every machine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from driving import NARROW, WIDE, opened, press
from golden_text import SCREENSHOTS, assert_golden, screen_text

if TYPE_CHECKING:
    from pathlib import Path

SCREENS = {
    "main": ("typo", ()),
    "module": ("typo", ("n",)),
    "filtered": ("typo", ("slash", "text:linear_fc1", "enter")),
    "details": ("mixtral", ("slash", "text:experts.linear_fc1", "enter", "enter")),
    "ranks": ("deepseek", ("right_square_bracket", "2")),
    "graph": ("typo", ("n", "3")),
    "source": ("typo", ("n", "5")),
    "finding": ("typo", ("n", "e")),
    "what-if": ("typo", ("w",)),
    "diff": ("typo", ("d",)),
    "help": ("typo", ("question_mark",)),
    "jump": ("typo", ("ctrl+o",)),
}

PICTURES = {"module": "main", "finding": "finding", "ranks": "ranks", "what-if": "what-if"}
"""Screen -> the picture of it in docs/screenshots."""


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", SCREENS)
def test_screen(plan_files: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    plan, keys = SCREENS[name]

    async def case() -> tuple[str, str]:
        async with opened(plan_files[plan], size) as (app, pilot):
            await press(pilot, *keys)
            return screen_text(app), app.export_screenshot()

    text, svg = asyncio.run(case())
    width = "wide" if size == WIDE else "narrow"
    assert_golden(f"screens/{name}-{width}.txt", text)
    if name in PICTURES and size == WIDE:
        assert_golden(f"{PICTURES[name]}.svg", svg, folder=SCREENSHOTS)
