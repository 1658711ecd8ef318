"""The command palette: every action that the screen has, found by its name or its sentence."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from textual.command import CommandList, CommandPalette, DiscoveryHit, Hit, Provider

from clora_inspect.tui.widgets.actions import ACTIONS, Context
from clora_inspect.tui.widgets.key_bindings import keys_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MENTIONED = 0.1
"""Score of an action whose sentence has the word that was typed. Textual's own commands, which are
matched by their names, come before it.
"""

NAMED = 1.0
"""Added to the score of an action whose name matches, so that it comes before Textual's commands.
"""


class ActionPalette(CommandPalette):
    """Textual's palette, safe on a terminal in which its list has no line."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Refuse to turn pages of a list without a line, which Textual looks up."""
        if action == "command_list" and not self.query_one(CommandList).scrollable_content_region.height:
            return False
        return super().check_action(action, parameters)


class ActionProvider(Provider):
    """Gives the palette the actions of the table."""

    async def discover(self) -> AsyncIterator[DiscoveryHit]:
        """Yield every action, for an empty search field."""
        for name, words, run in self._actions():
            yield DiscoveryHit(name, run, help=words)

    async def search(self, query: str) -> AsyncIterator[Hit]:
        """Yield the actions that match what was typed."""
        matcher = self.matcher(query)
        for name, words, run in self._actions():
            score = matcher.match(name)
            # An action that is called so comes before one that only mentions the word: "verif" is
            # Verify, and not Clear, which stops what is being verified.
            if score > 0:
                yield Hit(score + NAMED, matcher.highlight(name), run, help=words)
            elif query.casefold() in words.casefold():
                yield Hit(MENTIONED, name, run, help=words)

    def _actions(self) -> list[tuple[str, str, Any]]:
        screen = self.screen
        found = []
        for action in ACTIONS:
            # Actions of a pane need its focus, which the palette has now.
            known = callable(getattr(screen, f"action_{action.method}", None)) or action.context is Context.ANYWHERE
            if known and action.id != "command-palette":
                name = f"{action.label}  ({keys_of(self.app, action)})"
                found.append((name, action.help, partial(screen.run_action, action.call)))
        return found
