"""The table of actions as Textual's bindings, and the keys that the user gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from textual.binding import Binding

from clora_inspect.tui.widgets.actions import in_context, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from textual.app import App

    from clora_inspect.tui.widgets.actions import Action, Context


class HasKeymap(Protocol):
    """An app that knows the user's own keys. Textual applies them, but does not give them back."""

    keymap: Mapping[str, str]
    """Id of an action -> its keys, alternatives separated by commas."""


def bindings(*contexts: Context) -> list[Binding]:
    """Return the bindings of some contexts. Their ids are the names in the user's keymap."""
    return [
        Binding(
            action.keys,
            action.call,
            action.label,
            show=False,
            id=action.id,
            key_display=action.shown_keys,
            priority=action.is_priority,
        )
        for action in in_context(*contexts)
    ]


def keys_of(app: App[Any], action: Action) -> str:
    """Return the keys of an action as people write them: the user's own where they have some."""
    return shown(cast("HasKeymap", app).keymap.get(action.id, action.keys))
