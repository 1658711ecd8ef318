"""A screen that can be left once: a second key that arrives while it goes must not end it again."""

from __future__ import annotations

from typing import TypeVar

from textual.screen import Screen

Result = TypeVar("Result")


class Leavable(Screen[Result]):
    """Base of all screens over the main one."""

    def leave(self, result: Result | None) -> None:
        """End with `result`, unless it has ended or another screen stands over it: to dismiss it
        then would end that other one.
        """
        if self.app.screen is self:
            self.dismiss(result)
