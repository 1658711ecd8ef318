"""Hold what all screens share: the session, links, notices, and for every screen but the main
one a pane of text, a title, a footer and the way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual import on
from textual.screen import Screen

from clora_inspect.tui.job.outputs import TEXT
from clora_inspect.tui.panes.lines import Line, Link, Target
from clora_inspect.tui.screens.editor import open_in_editor
from clora_inspect.tui.screens.leave_once import LeaveOnce
from clora_inspect.tui.widgets.actions import BY_ID, Context, footer_of
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.notices import complain, copy, tell
from clora_inspect.tui.widgets.one_line import Footer, OneLine
from clora_inspect.tui.widgets.styles import TONE_CLASSES
from clora_inspect.tui.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.session import Session
    from clora_inspect.verify.report import ProofResult

WIDE = 100
"""Columns from which the details stand beside the tree."""

Result = TypeVar("Result")


class SessionScreen(Screen[Result]):
    """A screen that shows something of the session."""

    # On the screen, not on its widgets: see `widgets.styles`.
    COMPONENT_CLASSES: ClassVar[set[str]] = TONE_CLASSES
    proofs: Sequence[ProofResult] = ()
    """The results of the proofs that were run on this screen."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def go(self, link: Link) -> None:
        """Go where a link leads."""
        raise NotImplementedError

    def outputs(self, scene: Scene) -> list[OutputFile]:
        """Return what `x` can write on this screen, what the user looks at first."""
        raise NotImplementedError

    def copied_text(self) -> str:
        """Return what `y` copies, and what `x` writes as text."""
        raise NotImplementedError

    @on(TextPane.Followed)
    def follow(self, event: TextPane.Followed) -> None:
        """Go where a link of a pane leads."""
        # A class that wants something else overrides `go`: of decorated handlers Textual runs those
        # of the base classes, too.
        event.stop()
        self.go(event.link)

    @on(OneLine.Clicked)
    async def run_clicked(self, event: OneLine.Clicked) -> None:
        """Run the action of a tab, of a key in the footer, or of a count in the header."""
        event.stop()
        await self.run_action(BY_ID[event.link.value].call)

    def tell(self, words: str) -> None:
        """Tell the user that something was done."""
        tell(self.app, words)

    def complain(self, words: str) -> None:
        """Tell the user that something is wrong."""
        complain(self.app, words)

    def copy(self, text: str) -> None:
        """Put text on the clipboard, and tell the user how much it was."""
        copy(self.app, text)

    def edit(self, place: str) -> None:
        """Open `path:line` in the user's editor, and come back."""
        open_in_editor(self.app, place, self.session.root)


# `SessionScreen` comes first: Textual takes component classes from the first base alone.
class OverlayScreen(SessionScreen[Link], LeaveOnce[Link]):
    """A screen over the main one. It ends with the link that was followed, and the main screen goes
    there.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.OVERLAY)]
    CONTEXTS: ClassVar[tuple[Context, ...]] = (Context.OVERLAY,)
    HEADING: ClassVar[str] = ""

    def compose(self) -> ComposeResult:
        """Yield the text and the footer."""
        pane = TextPane(self.lines, id="text")
        pane.border_title = self.HEADING
        yield pane
        yield Footer(footer_of(*self.CONTEXTS, Context.ANYWHERE), id="footer")

    def lines(self, width: int) -> list[Line]:
        """Return what the screen says, for a width in cells."""
        raise NotImplementedError

    def scene_changed(self) -> None:
        """Do what is to be done when the main screen shows something else: mostly nothing, because
        most screens speak of what they were opened on.
        """

    def outputs(self, scene: Scene) -> list[OutputFile]:  # noqa: ARG002  # for those that have more
        """Return what `x` can write: the text alone, where there is nothing better."""
        return [TEXT]

    def copied_text(self) -> str:
        """Return the text of the pane."""
        return self.query_one("#text", TextPane).text

    def go(self, link: Link) -> None:
        """Open a file in the editor; leave with any other link, for the main screen to go there."""
        if link.target is Target.FILE:
            self.edit(link.value)
        elif link.target is not Target.ACTION:
            self.leave(link)

    def action_back(self) -> None:
        self.leave(None)

    def action_copy_text(self) -> None:
        self.copy(self.copied_text())
