"""Compare with golden files: text for review, and the pictures that the documentation shows.
`UPDATE_GOLDENS=1 pytest tests/tui` writes them again.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from textual.app import App

FOLDER = Path(__file__).parent / "golden"
SCREENSHOTS = Path(__file__).parents[2] / "docs" / "screenshots"


def screen_text(app: App[None]) -> str:
    """Return the whole screen as plain text."""
    # Textual's export gives SVG only, so we print its private compositor with rich.
    width, height = app.size
    console = Console(
        width=width, height=height, file=io.StringIO(), force_terminal=True, record=True, legacy_windows=False
    )
    console.print(app.screen._compositor.render_update(full=True, screen_stack=app._background_screens))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()).rstrip() + "\n"


def assert_golden(name: str, content: str, folder: Path = FOLDER) -> None:
    """Check that the golden file called `name` holds `content`."""
    path = folder / name
    if os.environ.get("UPDATE_GOLDENS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert path.is_file(), f"no golden file {name}: run UPDATE_GOLDENS=1 pytest tests/tui and look at what it writes"
    assert content == path.read_text(encoding="utf-8"), (
        f"{name} differs: look at the change, then UPDATE_GOLDENS=1 pytest tests/tui"
    )
