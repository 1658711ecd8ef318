"""What every screen but the main one has in common: one pane of text, a title, a footer, the way
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on

from clora_inspect.tui.job.outputs import TEXT
from clora_inspect.tui.panes.lines import Line, Link, Target
from clora_inspect.tui.screens.leave_once import LeaveOnce
from clora_inspect.tui.widgets.actions import BY_ID, Context, footer_of
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.one_line import Footer, OneLine
from clora_inspect.tui.widgets.styles import TONE_CLASSES
from clora_inspect.tui.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from clora_inspect.tui.app import InspectorApp
    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.verify.report import ProofResult


class SecondScreen(LeaveOnce[Link]):
    """A screen over the main one. It ends with the link that was followed, which the main screen
    then goes to.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = TONE_CLASSES
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.SECOND)]
    CONTEXTS: ClassVar[tuple[Context, ...]] = (Context.SECOND,)
    HEADING: ClassVar[str] = ""
    proofs: Sequence[ProofResult] = ()
    """What was proved here."""

    @property
    def inspector(self) -> InspectorApp:
        """The app, by its own type."""
        from clora_inspect.tui.app import InspectorApp

        if not isinstance(self.app, InspectorApp):
            raise TypeError("this screen belongs to InspectorApp")
        return self.app

    def compose(self) -> ComposeResult:
        """The text and the footer."""
        pane = TextPane(self.lines, id="text")
        pane.border_title = self.HEADING
        yield pane
        yield Footer(footer_of(*self.CONTEXTS, Context.ANYWHERE), id="footer")

    def lines(self, width: int) -> list[Line]:
        """What the screen says."""
        raise NotImplementedError

    def scene_changed(self) -> None:
        """The main screen shows something else now; most screens speak of what they were opened on."""

    def outputs(self, _scene: Scene) -> list[OutputFile]:
        """What `x` can write here: the text alone, where there is nothing better."""
        return [TEXT]

    def copied_text(self) -> str:
        """What `y` copies."""
        return self.query_one("#text", TextPane).text

    @on(TextPane.Followed)
    def follow(self, event: TextPane.Followed) -> None:
        """Do an action here; go anywhere else in the main screen."""
        event.stop()
        self.go(event.link)

    @on(OneLine.Clicked)
    async def follow_click(self, event: OneLine.Clicked) -> None:
        """A key of the footer was clicked."""
        event.stop()
        await self.run_link(event.link)

    async def run_link(self, link: Link) -> None:
        """Follow a link, an action among them."""
        if link.target is Target.ACTION:
            await self.run_action(BY_ID[link.value].call)
        else:
            self.go(link)

    def go(self, link: Link) -> None:
        """Leave with a link."""
        if link.target is Target.FILE:
            self.inspector.edit(link.value)
        elif link.target is not Target.ACTION:
            self.leave(link)

    def action_back(self) -> None:
        """Go back."""
        self.leave(None)

    def action_copy_text(self) -> None:
        """Copy the text."""
        self.inspector.copy(self.copied_text())
