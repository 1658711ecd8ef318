"""A screen that can be left once: a second key that arrives while it goes must not end it again."""

from __future__ import annotations

from typing import TypeVar

from textual.screen import Screen

Result = TypeVar("Result")


class Leavable(Screen[Result]):
    """Base of all screens over the main one."""

    _is_left = False

    def leave(self, result: Result | None) -> None:
        """End with `result`, unless it has ended or another screen stands over it."""
        if not self._is_left and self.is_current:
            self._is_left = True
            self.dismiss(result)
