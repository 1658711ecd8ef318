"""Show short notices to the user, and copy text to the clipboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textual.app import App

SECONDS = 12
"""How long an error stays: it takes longer to read than what was done."""


def tell(app: App[Any], words: str) -> None:
    """Tell the user that something was done."""
    # Words are the user's own as often as ours, so brackets in them are no markup.
    app.notify(words, markup=False)


def complain(app: App[Any], words: str) -> None:
    """Tell the user that something is wrong."""
    app.notify(words, severity="error", markup=False, timeout=SECONDS)


def copy(app: App[Any], text: str) -> None:
    """Put text on the clipboard, through the terminal, and tell the user how many lines it was."""
    if text:
        app.copy_to_clipboard(text)
        lines = text.count("\n") + 1
        tell(app, f"Copied {lines} line{'s' if lines > 1 else ''}.")
