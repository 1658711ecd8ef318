"""A screen that is left once: a second key that arrives while it goes must not end it again."""

from __future__ import annotations

from typing import TypeVar

from textual.screen import Screen

Result = TypeVar("Result")


class LeaveOnce(Screen[Result]):
    """Base of all screens over the main one."""

    def leave(self, result: Result | None) -> None:
        """End with `result`, unless the screen has ended already or another one stands over it:
        Textual's `dismiss` would then end that other one.
        """
        if self.app.screen is self:
            self.dismiss(result)
