"""Every screen as golden text, wide and narrow, and the screens of the documentation as pictures.

The same plan gives the same bytes on every machine.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
from driving import WIDE, WIDTHS, opened, press, until
from golden_text import SCREENSHOTS, assert_golden, screen_text

from clora_inspect.tui.job.child import ChildProcesses
from clora_inspect.tui.screens.verify import VerifyScreen

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


@pytest.mark.parametrize("size", WIDTHS, ids=WIDTHS.values())
@pytest.mark.parametrize("name", SCREENS)
def test_screen(plan_files: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    plan, keys = SCREENS[name]

    async def case() -> tuple[str, str]:
        async with opened(plan_files[plan], size) as (app, pilot):
            await press(pilot, *keys)
            return screen_text(app), app.export_screenshot()

    text, svg = asyncio.run(case())
    assert_golden(f"screens/{WIDTHS[size]}/{name}.txt", text)
    if name in PICTURES and size == WIDE:
        assert_golden(f"{PICTURES[name]}.svg", svg, folder=SCREENSHOTS)


PROOFS = """
import sys
sys.stdin.readline()
print('{"proof": "zero-b", "status": "passed", "detail": "outputs are the same", "tensors": 3, "largest_error": 0.0}')
print('{"proof": "layout", "status": "skipped", "detail": "one rank has nothing to compare with"}')
print('{"ranks": 1, "shrunk": ["32 layers to 2, which stand for layers 0, 1.", "Sizes: hidden_size 4096 to 64."],'
      '"dropped": ["tp4: not shown, 1 rank cannot show it as well.", "sp: not shown without tp."]}', flush=True)
"""


@pytest.mark.parametrize("size", WIDTHS, ids=WIDTHS.values())
def test_the_screen_of_proofs(plan_files: dict[str, Path], size: tuple[int, int]) -> None:
    async def case() -> str:
        processes = ChildProcesses((sys.executable, "-c", PROOFS))
        async with opened(plan_files["typo"], size, processes=processes) as (app, pilot):
            await press(pilot, "v", "enter")
            screen = app.screen
            assert isinstance(screen, VerifyScreen)
            await until(pilot, lambda: screen.state == "done")
            await press(pilot)
            return screen_text(app)

    assert_golden(f"screens/{WIDTHS[size]}/verify.txt", asyncio.run(case()))
