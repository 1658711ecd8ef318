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


@asynccontextmanager
async def opened(
    what: Path | Opening | None, size: tuple[int, int] = WIDE, **options: Any
) -> AsyncIterator[tuple[InspectorApp, Pilot[None]]]:
    """The interface, opened on a file or a job, with nothing left to wait for."""
    opening = what if what is None or isinstance(what, Opening) else opening_of(str(what), None)
    app = InspectorApp(opening, **options)
    # Blinking would make two pictures of one screen.
    app.animation_level = "none"
    async with app.run_test(size=size, notifications=True) as pilot:
        await settle(pilot, app)
        yield app, pilot


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, and wait for what each began. A key of several words in quotes is typed."""
    for key in keys:
        if key.startswith("text:"):
            await pilot.press(*key.removeprefix("text:"))
        else:
            await pilot.press(key)
    app = pilot.app
    assert isinstance(app, InspectorApp)
    await settle(pilot, app)


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Go on as soon as `condition` holds: how long that takes is the machine's business."""
    waited = 0.0
    while not condition():
        assert waited < LONGEST_WAIT, condition
        await pilot.pause(STEP)
        waited += STEP


def told(app: InspectorApp) -> list[str]:
    """What the interface told the user."""
    return [notification.message for notification in app._notifications]


def is_running(process: int) -> bool:
    """Whether there is a process of that id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
