"""What stdout can show, and writing to it."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
from typing import TYPE_CHECKING

from clora_inspect.cli.stdio.failure import discard_stdout
from clora_inspect.formats.glyphs import ASCII, UNICODE
from clora_inspect.formats.look import Look

if TYPE_CHECKING:
    from clora_inspect.cli.stdio.display import Display


def is_ascii_only(display: Display) -> bool:
    """Whether what goes to stdout must do with ASCII."""
    return display.ascii or not _is_utf8(sys.stdout.encoding)


def look_of_stdout(display: Display) -> Look:
    """Colour and width of the terminal that stdout is; neither for a pipe."""
    is_terminal = sys.stdout.isatty()
    return Look(
        glyphs=ASCII if is_ascii_only(display) else UNICODE,
        color=_has_color(display.color, is_terminal=is_terminal),
        width=shutil.get_terminal_size().columns if is_terminal else None,
    )


def look_of_file(display: Display) -> Look:
    """A file gets colour only from who asks for it, and is UTF-8."""
    return Look(glyphs=ASCII if display.ascii else UNICODE, color=display.color == "always")


def print_data(text: str) -> None:
    """Write `text` to stdout. A reader that has gone is no error: the exit code is that of the
    work.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()


def _has_color(when: str, *, is_terminal: bool) -> bool:
    """The user's word, then NO_COLOR and FORCE_COLOR (any text but the empty one counts), then the
    terminal.
    """
    if when != "auto":
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal and os.environ.get("TERM") != "dumb"


def _is_utf8(encoding: str | None) -> bool:
    return encoding is not None and codecs.lookup(encoding).name == "utf-8"
