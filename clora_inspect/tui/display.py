"""`SessionDisplay`: what a session asks of the screen that it is shown on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from textual.worker import Worker


class SessionDisplay(Protocol):
    """The screen that shows a session."""

    @property
    def is_there(self) -> bool:
        """Whether there is anything to show on. There is not before the first frame, nor while the
        interface ends.
        """
        ...

    @property
    def chosen_path(self) -> str:
        """Path of the row under the cursor; empty for the model itself."""
        ...

    def say_busy(self, words: str) -> None:
        """Show what is being done; with no words, that it has ended."""
        ...

    def forget_choices(self) -> None:
        """Forget what was chosen in the job that was open before."""
        ...

    def refresh_all(self, *, path: str | None = None) -> None:
        """Show the scene, with the cursor on the row of `path`; None leaves it where it is."""
        ...

    def ask_for_job(self) -> None:
        """Let the user choose what to open."""
        ...

    def tell(self, words: str) -> None:
        """Tell the user that something was done."""
        ...

    def complain(self, words: str) -> None:
        """Tell the user that something is wrong."""
        ...

    def start(self, work: Callable[[], Coroutine[None, None, None]], *, group: str = "open") -> Worker[None]:
        """Run `work` beside the interface, in place of what was started before in its group."""
        ...

    def after_next_frame(self, callback: Callable[[], None]) -> None:
        """Call back when the next frame has been drawn."""
        ...
