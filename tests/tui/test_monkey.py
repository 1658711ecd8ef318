"""Random keys, clicks and resizes on three plans: nothing crashes, whatever the order. Seeded, so
that a failure comes again.

`CLORA_MONKEY_STEPS=5000` makes a long run of it, `CLORA_MONKEY_SEED=...` another one.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from driving import opened, press, until
from golden_text import screen_text
from textual.errors import NoWidget
from textual.pilot import OutOfBounds

from clora_inspect.tui.app import InspectorApp
from clora_inspect.tui.job.child import ChildProcesses, CommandError
from clora_inspect.tui.screens import what_if as what_if_screen
from clora_inspect.tui.screens.export import Exporter
from clora_inspect.tui.screens.main import MainScreen
from clora_inspect.tui.screens.verify import VerifyScreen
from clora_inspect.tui.widgets.actions import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


STEPS = int(os.environ.get("CLORA_MONKEY_STEPS", "300"))

KEYS = [key for action in ACTIONS for key in action.keys.split(",")]
LETTERS = [*"abxz019.{}*[]", "backspace", "delete", "enter", "escape", "tab", "space", "up", "down"]
SIZES = [(140, 45), (80, 24), (100, 30), (99, 20), (60, 16), (30, 8), (200, 60), (20, 5)]


class NoProcesses(ChildProcesses):
    """Answers at once that it cannot: child processes have tests of their own, and five thousand
    plans would take an hour.
    """

    async def output(self, words: Sequence[str]) -> bytes:
        raise CommandError(f"{words[-1]} is not planned here.")


async def _steps(app: InspectorApp, pilot: object, chance: random.Random, steps: int) -> list[str]:
    from textual.pilot import Pilot

    assert isinstance(pilot, Pilot)
    done: list[str] = []
    for _ in range(steps):
        kind = chance.random()
        if kind < 0.75:
            key = chance.choice(KEYS if chance.random() < 0.7 else LETTERS)
            done.append(key)
            await pilot.press(key)
        elif kind < 0.95:
            at = (chance.randrange(app.size.width), chance.randrange(max(app.size.height - 1, 1)))
            done.append(f"click {at}")
            # Between a resize and its layout there is nothing there, and a terminal sends no click
            # to nothing.
            with suppress(NoWidget, OutOfBounds):
                await pilot.click(offset=at, times=chance.choice([1, 1, 2]))
        else:
            size = chance.choice(SIZES)
            done.append(f"resize {size}")
            await pilot.resize_terminal(*size)
        if len(app.screen_stack) > 6:
            await pilot.press("escape")
    return done


@pytest.fixture
def harmless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Switch off everything with an effect outside: no end, no file, no process. Each of those has
    a test of its own.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)

    async def stay(_: InspectorApp) -> None:
        pass

    monkeypatch.setattr(InspectorApp, "action_quit", stay)
    monkeypatch.setattr(InspectorApp, "action_screenshot", lambda *_: None)
    monkeypatch.setattr(Exporter, "_write", lambda *_: None)
    monkeypatch.setattr(what_if_screen, "write_atomically", lambda *_: None)
    monkeypatch.setattr(VerifyScreen, "run_proofs", lambda _: None)
    return tmp_path


@pytest.mark.parametrize("name", ["typo", "mixtral", "experts"])
def test_no_order_of_keys_clicks_and_resizes_crashes(plan_files: dict[str, Path], name: str, harmless: Path) -> None:
    chance = random.Random(os.environ.get("CLORA_MONKEY_SEED", f"clora {name}"))

    async def case() -> None:
        async with opened(plan_files[name], processes=NoProcesses()) as (app, pilot):
            # On a slow machine a key could end the opening, and then nothing is open.
            await until(pilot, lambda: app.scene is not None)
            done = await _steps(app, pilot, chance, STEPS // 3)
            assert app.is_running, done[-20:]
            for _ in range(12):
                if app.screen is app.main:
                    break
                await press(pilot, "escape")
            await pilot.resize_terminal(140, 45)
            # It can still be used: back on the main screen, the whole tree is there.
            assert isinstance(app.screen, MainScreen), done[-20:]
            await pilot.press("escape", "escape", "0", "home")
            assert app.scene is not None
            job = app.scene.name.split()[0]
            await until(pilot, lambda: job in screen_text(app))

    asyncio.run(case())
    assert list(harmless.iterdir()) == []
