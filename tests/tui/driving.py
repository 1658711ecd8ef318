"""Drive the real interface without a terminal."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from clora_inspect.tui.app import InspectorApp
from clora_inspect.tui.job.opening import Opening, opening_of
from clora_inspect.tui.screenshot import LONGEST_WAIT, STEP, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from textual.pilot import Pilot

WIDE, NARROW = (140, 45), (80, 24)
WIDTHS = {WIDE: "wide", NARROW: "narrow"}
"""Size of the terminal -> folder of its golden screens."""


@asynccontextmanager
async def opened(
    what: Path | Opening | None, size: tuple[int, int] = WIDE, **options: Any
) -> AsyncIterator[tuple[InspectorApp, Pilot[None]]]:
    """Yield the interface, opened on a file or a job, when it has drawn everything."""
    opening = what if what is None or isinstance(what, Opening) else opening_of(str(what), None)
    app = InspectorApp(opening, **options)
    # Blinking would make two pictures of one screen.
    app.animation_level = "none"
    async with app.run_test(size=size, notifications=True) as pilot:
        await settle(pilot, app)
        yield app, pilot


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, then wait until the interface has finished. `text:WORDS` types the words."""
    for key in keys:
        if key.startswith("text:"):
            await pilot.press(*key.removeprefix("text:"))
        else:
            await pilot.press(key)
    app = pilot.app
    assert isinstance(app, InspectorApp)
    await settle(pilot, app)


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Wait until `condition` holds. No fixed time is right: machines are fast, slow or busy."""
    waited = 0.0
    while not condition():
        assert waited < LONGEST_WAIT, condition
        await pilot.pause(STEP)
        waited += STEP


def told(app: InspectorApp) -> list[str]:
    """Return the messages that the interface has shown to the user."""
    return [notification.message for notification in app._notifications]


def is_running(process: int) -> bool:
    """Return whether there is a process of that id."""
    # Signal 0 sends nothing, and fails if there is no such process.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
