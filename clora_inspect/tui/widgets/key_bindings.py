"""The table of `keys` as Textual's bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.binding import Binding

from clora_inspect.tui.widgets.actions import in_context

if TYPE_CHECKING:
    from clora_inspect.tui.widgets.actions import Context


def bindings(*contexts: Context) -> list[Binding]:
    """The bindings of some contexts. Their ids are the names of the keymap."""
    return [
        Binding(
            action.keys,
            action.method,
            action.label,
            show=False,
            id=action.id,
            key_display=action.shown_keys,
            priority=action.at_once,
        )
        for action in in_context(*contexts)
    ]
