"""A picture of the interface without a terminal: open, press keys, save. For the docs and for CI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError
from clora_inspect.machine.atomic_file import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from textual.pilot import Pilot

    from clora_inspect.tui.app import InspectorApp

LONGEST_WAIT = 300.0
"""Seconds that something may take to be opened or planned."""

STEP = 0.02


class ScreenshotError(CloraError):
    """The picture could not be made."""


def take_screenshot(
    app: InspectorApp, path: Path, *, keys: tuple[str, ...] = (), size: tuple[int, int] = (140, 45)
) -> None:
    """Run `app` headless in a terminal of `size` (columns, rows), press `keys` in Textual's names,
    and write the screen to `path`.

    A key `text:WORDS` types words. Every key waits until what it began has ended.

    Raises:
        ScreenshotError: something could not be opened within five minutes.
        OSError: the file cannot be written.
    """
    pictures: list[str] = []

    async def drive(pilot: Pilot[Any]) -> None:
        await settle(pilot, app)
        for key in keys:
            if key.startswith("text:"):
                await pilot.press(*key.removeprefix("text:"))
            else:
                await pilot.press(key)
            await settle(pilot, app)
        pictures.append(app.export_screenshot())
        app.exit()

    app.run(headless=True, size=size, auto_pilot=drive)
    if not pictures:
        raise ScreenshotError(f"nothing was on the screen within {LONGEST_WAIT:.0f} s.")
    write_atomically(path, pictures[0].encode())


async def settle(pilot: Pilot[Any], app: InspectorApp) -> None:
    """Wait until nothing is being opened, planned or proved."""
    await pilot.pause()
    waited = 0.0
    while (app.is_opening or any(not worker.is_finished for worker in app.workers)) and waited < LONGEST_WAIT:
        await asyncio.sleep(STEP)
        waited += STEP
    await pilot.pause()
