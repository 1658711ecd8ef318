"""Save a picture of the interface without a terminal, after some keys: for the docs and for CI."""

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
"""Seconds that one thing may take to be opened, planned or proved."""

STEP = 0.02
"""Seconds between two looks whether it has ended."""


class ScreenshotError(CloraError):
    """Nothing was on the screen that could be saved."""


def take_screenshot(
    app: InspectorApp, path: Path, *, keys: tuple[str, ...] = (), size: tuple[int, int] = (140, 45)
) -> None:
    """Run `app` without a terminal, press keys, and write the screen to `path`.

    Args:
        app: the interface.
        path: the SVG file.
        keys: keys in Textual's names; `text:WORDS` types words. What a key begins has ended before
            the next one is pressed.
        size: columns and rows.

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
        # Here, because there is no screen any more when `run` has returned.
        pictures.append(app.export_screenshot())
        app.exit()

    app.run(headless=True, size=size, auto_pilot=drive)
    if not pictures:
        raise ScreenshotError(f"nothing was on the screen within {LONGEST_WAIT:.0f} s.")
    write_atomically(path, pictures[0].encode())


async def settle(pilot: Pilot[Any], app: InspectorApp) -> None:
    """Wait until nothing is being opened, planned or proved."""
    await pilot.pause()
    # Workers plan and prove; what is read before the first frame is none.
    waited = 0.0
    while (app.session.is_opening or any(not worker.is_finished for worker in app.workers)) and waited < LONGEST_WAIT:
        await asyncio.sleep(STEP)
        waited += STEP
    await pilot.pause()
