"""The details of a module on a screen of their own, for a terminal that is too narrow to have them
beside the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from clora_inspect.tui.job.outputs import outputs_of
from clora_inspect.tui.panes.lines import Target
from clora_inspect.tui.screens.base import WIDE, OverlayScreen
from clora_inspect.tui.widgets.actions import Context, footer_of
from clora_inspect.tui.widgets.details import Details
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.one_line import Footer
from clora_inspect.tui.widgets.tabs import TABS

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.lines import Link
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.session import Session
    from clora_inspect.tui.widgets.tree_pane import TreePane

FROM_MAIN = frozenset(f"tab-{tab.name}" for tab in TABS) | {
    "next-rank",
    "previous-rank",
    "all-ranks",
    "explain",
    "memory",
}
"""Actions of the main screen that are at hand here, too."""


class Owner(Protocol):
    """The main screen, which lies below: what it shows, this screen shows in full."""

    model: TreePane
    details: Details

    def choose_rank(self, rank: int | None) -> None:
        """Look from a rank, or at the whole model for None."""
        ...

    def step_rank(self, way: int) -> None:
        """Look from the next rank class, or from the one before it."""
        ...

    def action_explain(self) -> None:
        """Explain the finding about the chosen module."""
        ...


class DetailsScreen(OverlayScreen):
    """The tabs and the text of the chosen module."""

    BINDINGS: ClassVar[list[BindingType]] = [binding for binding in bindings(Context.MAIN) if binding.id in FROM_MAIN]

    def __init__(self, session: Session, owner: Owner) -> None:
        super().__init__(session)
        self.details = Details(id="details")
        self._owner = owner

    def compose(self) -> ComposeResult:
        """Yield the details and the footer."""
        yield self.details
        yield Footer(footer_of(*self.CONTEXTS, Context.ANYWHERE), id="footer")

    def on_mount(self) -> None:
        """Begin with the tab that is chosen in the main screen."""
        self.details.border_title = "Details"
        self.details.choose(self._owner.details.tab)
        self.scene_changed()
        self.set_focus(self.details.pane)

    def scene_changed(self) -> None:
        """Show the row that is chosen in the main screen."""
        if self.session.scene is not None:
            self.details.show(self.session.scene, self._owner.model.row, keep_place=True)

    def copied_text(self) -> str:
        """Return the text of the tab."""
        return self.details.pane.text

    def outputs(self, scene: Scene) -> list[OutputFile]:
        """Return what the main screen offers for the same tab."""
        return outputs_of(scene, self.details.tab)

    def on_resize(self) -> None:
        self._leave_when_wide()

    def on_screen_resume(self) -> None:
        # The terminal may have grown while another screen stood over this one.
        self._leave_when_wide()

    def _leave_when_wide(self) -> None:
        """Leave where the details have room beside the tree again."""
        # Under another screen it stays: ending it would end that one.
        if self.app.size.width >= WIDE and self.app.screen is self:
            self._owner.details.choose(self.details.tab)
            self.leave(None)

    def go(self, link: Link) -> None:
        """Choose a rank here; leave with any other link."""
        if link.target is Target.RANK:
            self._owner.choose_rank(int(link.value))
            self.scene_changed()
        else:
            super().go(link)

    # The main screen keeps the rank and the row: it shows the same when this screen has ended.

    def action_next_rank(self) -> None:
        self._owner.step_rank(1)
        self.scene_changed()

    def action_previous_rank(self) -> None:
        self._owner.step_rank(-1)
        self.scene_changed()

    def action_all_ranks(self) -> None:
        self._owner.choose_rank(None)
        self.scene_changed()

    def action_memory(self) -> None:
        self.details.choose("ranks")
        self.session.count_memory()

    def action_explain(self) -> None:
        self._owner.action_explain()

    def action_tab(self, name: str) -> None:
        self.details.choose(name)
