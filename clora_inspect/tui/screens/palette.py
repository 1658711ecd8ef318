"""The command palette: every action that the screen has, found by its name or its sentence."""

from __future__ import annotations

import re
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from textual import on
from textual.command import CommandList, CommandPalette, DiscoveryHit, Hit, Provider
from textual.widgets import Input
from textual.worker import WorkerError

from clora_inspect.tui.widgets.actions import ACTIONS, Context
from clora_inspect.tui.widgets.key_bindings import keys_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STEP = 1000.0
"""Distance of the scores of two kinds of match. Textual's score, some ten at most for each letter
that was typed, orders the matches of one kind.
"""


class Match(IntEnum):
    """How well a command matches what was typed, the best last."""

    NONE = 0
    LETTERS = 1
    """The letters stand scattered in the name."""
    MENTIONED = 2
    """A word of the sentence starts so: "verif" finds Clear, which stops what is being verified."""
    IN_NAME = 3
    WORD_OF_NAME = 4
    STARTS_NAME = 5
    NAME = 6


class Command(NamedTuple):
    """What the palette offers: an action of the table, or a command of Textual's own."""

    label: str
    keys: str
    help: str
    run: Any

    @property
    def shown(self) -> str:
        """The name as the palette shows it."""
        return f"{self.label}  ({self.keys})" if self.keys else self.label

    def match(self, typed: str) -> Match:
        """Say how `typed`, in lower case, matches; letters are the business of Textual."""
        name = self.label.lower()
        if name == typed:
            return Match.NAME
        if name.startswith(typed):
            return Match.STARTS_NAME
        if _begins_a_word(typed, name):
            return Match.WORD_OF_NAME
        if typed in name:
            return Match.IN_NAME
        return Match.MENTIONED if _begins_a_word(typed, self.help.lower()) else Match.NONE


def _begins_a_word(typed: str, words: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(typed)}", words) is not None


class ActionPalette(CommandPalette):
    """Textual's palette, safe on a terminal in which its list has no line."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Refuse to turn pages of a list without a line, which Textual looks up."""
        if action == "command_list" and not self.query_one(CommandList).scrollable_content_region.height:
            return False
        return super().check_action(action, parameters)

    @on(Input.Submitted)
    async def _finish_search(self) -> None:
        """Wait for what is still searched. The list would give Enter an older first command."""
        for worker in [worker for worker in self.workers if worker.node is self]:
            try:
                await worker.wait()
            except WorkerError:
                # A search ends so if the user has typed on.
                continue


class ActionProvider(Provider):
    """Gives the palette the actions of the table, and Textual's own commands."""

    async def discover(self) -> AsyncIterator[DiscoveryHit]:
        """Yield every command, for an empty search field."""
        for command in self._commands():
            yield DiscoveryHit(command.shown, command.run, help=command.help)

    async def search(self, query: str) -> AsyncIterator[Hit]:
        """Yield the commands that match what was typed."""
        matcher = self.matcher(query)
        for command in self._commands():
            letters = matcher.match(command.shown)
            match = command.match(query.lower()) or (Match.LETTERS if letters > 0 else Match.NONE)
            if match:
                shown = matcher.highlight(command.shown) if letters > 0 else command.shown
                yield Hit(match * STEP + letters, shown, command.run, help=command.help)

    def _commands(self) -> Iterator[Command]:
        screen = self.screen
        for action in ACTIONS:
            # Actions of a pane need its focus, which the palette has now.
            known = callable(getattr(screen, f"action_{action.method}", None)) or action.context is Context.ANYWHERE
            if known and action.id != "command-palette":
                run = partial(screen.run_action, action.call)
                yield Command(action.label, keys_of(self.app, action), action.help, run)
        for own in self.app.get_system_commands(screen):
            yield Command(own.title, "", own.help, own.callback)
