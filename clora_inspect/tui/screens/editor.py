"""Open a line of a file in the user's editor, and come back."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import SuspendNotSupported

from clora_inspect.tui.widgets.notices import complain

if TYPE_CHECKING:
    from textual.app import App


def open_in_editor(app: App[Any], place: str, root: Path) -> None:
    """Open `path:line` in $VISUAL or $EDITOR, or tell the user why not. Relative paths are relative
    to `root`.
    """
    name, _, number = place.rpartition(":")
    path, line = (Path(name), number) if number.isdigit() else (Path(place), "1")
    # $VISUAL first, as git and less look for it.
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        complain(app, f"Set $EDITOR to open {place}.")
        return
    try:
        with app.suspend():
            # vi, emacs, nano and micro take +LINE.
            subprocess.run([*shlex.split(editor), f"+{line}", str(root / path)], check=False)  # noqa: S603  # the user's own editor
    except SuspendNotSupported as error:
        complain(app, f"The editor cannot be opened here: {error}")
    except (OSError, ValueError) as error:
        complain(app, f"{editor} cannot be started: {error}")
