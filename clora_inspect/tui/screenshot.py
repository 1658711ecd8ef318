"""Save a picture of the interface without a terminal, after some keys: for the docs and for CI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from textual.pilot import Pilot

    from clora_inspect.tui.app import InspectorApp

LONGEST_WAIT = 300.0
"""Seconds that one thing may take to be opened, planned or proved."""

STEP = 0.02
"""Seconds between two looks whether it has ended."""


class ScreenshotError(CloraError):
    """Nothing was on the screen that could be saved."""


class UnknownKeyError(CloraError):
    """A key that no terminal sends."""


MODIFIERS = ("ctrl", "shift", "alt", "meta", "super", "hyper")


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
        CloraError: nothing could be opened, so that there is nothing to show.
        ScreenshotError: something could not be opened within five minutes.
        OSError: the file cannot be written.
    """
    pictures: list[str] = []

    async def drive(pilot: Pilot[Any]) -> None:
        await settle(pilot, app)
        # A picture of an empty screen would look like a success.
        if app.scene is None and app.session.failure is not None:
            app.exit()
            return
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
    if not pictures and app.session.failure is not None:
        raise app.session.failure
    if not pictures:
        raise ScreenshotError(f"nothing was on the screen within {LONGEST_WAIT:.0f} s.")
    write_atomically(path, pictures[0].encode())


def refuse_unknown(keys: Iterable[str]) -> None:
    """Refuse names of keys that Textual does not know: it would press them without an effect.

    Raises:
        UnknownKeyError: the first of them, with the nearest names.
    """
    from textual.keys import Keys

    known = {key.value for key in Keys}
    for key in keys:
        name = key.split("+")[-1] if key.split("+")[:-1] and set(key.split("+")[:-1]) <= set(MODIFIERS) else key
        if key.startswith("text:") or key in known or name in known or len(name) == 1 or _is_character(name):
            continue
        raise UnknownKeyError(
            f"--keys: there is no key '{key}'{nearest(name, sorted(known))} To type words: text:WORDS; other keys "
            "have the names of their characters, such as slash and question_mark."
        )


def _is_character(name: str) -> bool:
    """Return whether `name` is a character's in Unicode, as Textual calls keys: `question_mark`."""
    from textual.keys import REPLACED_KEYS, key_to_character

    return name in REPLACED_KEYS or key_to_character(name) is not None


async def settle(pilot: Pilot[Any], app: InspectorApp) -> None:
    """Wait until nothing is being opened, planned or proved."""
    await pilot.pause()
    # Workers plan and prove; what is read before the first frame is none.
    waited = 0.0
    while (app.session.is_opening or any(not worker.is_finished for worker in app.workers)) and waited < LONGEST_WAIT:
        await asyncio.sleep(STEP)
        waited += STEP
    await pilot.pause()
