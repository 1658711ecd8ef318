"""Write to stdout, and find out what it can show: colour, width, characters beyond ASCII."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.stdio.failure import discard_stdout
from clora_inspect.formats.glyphs import ASCII, UNICODE
from clora_inspect.formats.look import Look

if TYPE_CHECKING:
    from clora_inspect.cli.stdio.display import Display


def is_ascii_only(display: Display) -> bool:
    """Return whether stdout gets ASCII only: it was asked for, or stdout is not UTF-8."""
    return display.ascii or not _is_utf8(sys.stdout.encoding)


def look_of_stdout(display: Display) -> Look:
    """Return the look of text on stdout: coloured and wrapped for a terminal, plain for a pipe."""
    is_terminal = sys.stdout.isatty()
    return Look(
        glyphs=ASCII if is_ascii_only(display) else UNICODE,
        color=_has_color(display.color, is_terminal=is_terminal),
        # A pipe has no width. Cutting its lines at 80 columns would lose data.
        width=shutil.get_terminal_size().columns if is_terminal else None,
    )


def look_of_file(display: Display) -> Look:
    """Return the look of text in a file: UTF-8, and coloured only with `--color always`."""
    return Look(glyphs=ASCII if display.ascii else UNICODE, color=display.color == "always")


def print_data(text: str) -> None:
    """Write `text` to stdout. It is no error when the reader has gone, as in `... | head`."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        # Under a C locale stdout is ASCII, and a name in the model need not be.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
    except OSError as error:
        discard_stdout()
        raise click.ClickException(f"stdout cannot be written to: {error.strerror or error}.") from error


def _has_color(when: str, *, is_terminal: bool) -> bool:
    # --color decides first, then NO_COLOR, then FORCE_COLOR, then the terminal. As no-color.org has
    # it, a variable counts when it is set to anything but the empty string.
    if when != "auto":
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal and os.environ.get("TERM") != "dumb"


def _is_utf8(encoding: str | None) -> bool:
    return encoding is not None and codecs.lookup(encoding).name == "utf-8"
