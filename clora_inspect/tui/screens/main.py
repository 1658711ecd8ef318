"""The main screen: header, filter, model tree, details, findings, footer.

This is what it shows, and what it reacts to. `navigation` goes places in it, `job_actions` does
something with the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.containers import Horizontal
from textual.widgets import Input, Label

from clora.errors import TargetError
from clora.plan import Fate
from clora_inspect.tui.job.outputs import outputs_of
from clora_inspect.tui.panes.findings import finding_lines
from clora_inspect.tui.panes.header import filter_words, problem_counts, scene_words
from clora_inspect.tui.panes.lines import Line, keep_start
from clora_inspect.tui.panes.python_snippet import python_snippet
from clora_inspect.tui.screens.base import OverlayScreen
from clora_inspect.tui.screens.job_actions import JobActions
from clora_inspect.tui.tree.rows import TreeFilter
from clora_inspect.tui.widgets.actions import Context, footer_of
from clora_inspect.tui.widgets.details import Details
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.one_line import Footer, Header
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.tui.widgets.tree_pane import TreePane

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.worker import Worker

    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.session import Session


class MainScreen(JobActions):
    """One job, seen from one rank or from all."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.MAIN)]

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.header = Header(id="header")
        self.model = TreePane(id="tree")
        self.details = Details(id="details")
        self.findings = TextPane(self._finding_lines, id="findings")
        self.filter_field = Input(
            id="filter", compact=True, placeholder="filter: a part of a name, or a pattern", select_on_focus=False
        )
        self._filter_words = Label("", id="filter-words", markup=False)

    def compose(self) -> ComposeResult:
        yield self.header
        with Horizontal(id="filter-line"):
            yield Label(" / ", id="filter-mark", markup=False)
            yield self.filter_field
            yield self._filter_words
        with Horizontal(id="body"):
            yield self.model
            yield self.details
        yield self.findings
        yield Label("", id="busy", markup=False)
        yield Footer(footer_of(Context.MAIN, Context.ANYWHERE), id="footer")

    def on_mount(self) -> None:
        """Set the titles, and the focus on the tree."""
        self.model.border_title = "Model"
        self.details.border_title = "Details"
        self.findings.border_title = "Findings"
        self.filter_field.cursor_blink = False
        self.set_focus(self.model)
        self.refresh_all()

    # What it shows

    @property
    def is_there(self) -> bool:
        """Whether its panes exist. Before they are composed, and while the interface ends, nothing
        can be shown.
        """
        return bool(self.query("#busy"))

    @property
    def chosen_path(self) -> str:
        """Path of the row under the cursor; empty for the model itself."""
        row = self.model.row
        return row.path if row else ""

    def forget_choices(self) -> None:
        """Forget the chosen finding and the filter: they were another job's."""
        self.finding = None
        if self.is_there:
            self.filter_field.value = ""

    def refresh_all(self, *, path: str | None = None) -> None:
        """Show the scene, with the tree's cursor on `path`; None leaves it where it is."""
        scene = self.session.scene
        if scene is None:
            opening = self.session.opening
            self.header.show((opening.name if opening else "clora-inspect",), ())
            return
        self.header.show(scene_words(scene), problem_counts(scene))
        self.model.show(scene, path)
        self.details.show(scene, self.model.row)
        self.findings.show(keep_place=True)
        self._refresh_filter_words(scene)
        if isinstance(self.app.screen, OverlayScreen):
            self.app.screen.scene_changed()

    def _finding_lines(self, width: int) -> list[Line]:
        scene = self.session.scene
        return finding_lines(scene.findings, self.finding, width) if scene else []

    def _refresh_filter_words(self, scene: Scene) -> None:
        self._filter_words.update(f"{filter_words(scene)} ")

    def say_busy(self, words: str) -> None:
        """Show what is being done; with no words, that it has ended."""
        # A query, because there is no such label before the first frame and after the last.
        for label in self.query("#busy").results(Label):
            label.update(f" … {words}" if words else "")
            label.display = bool(words)

    def start(self, work: Callable[[], Coroutine[None, None, None]], *, group: str = "open") -> Worker[None]:
        """Run `work` beside the interface, in place of what was started before in its group."""
        # The app reports failures of its own workers, so this is one.
        return self.app.run_worker(work, group=group, exclusive=True, exit_on_error=False)

    def after_next_frame(self, callback: Callable[[], None]) -> None:
        """Call back when the next frame has been drawn."""
        # The screen's own calls back after its last message, which may be before the frame.
        self.app.call_after_refresh(callback)

    # What the panes tell

    @on(TreePane.Moved)
    def tree_moved(self) -> None:
        """Let the details follow the cursor."""
        if self.session.scene is not None:
            self.details.show(self.session.scene, self.model.row)

    @on(TreePane.Entered)
    def tree_entered(self) -> None:
        self.show_details()

    # The filter

    @on(Input.Changed, "#filter")
    def filter_typed(self, event: Input.Changed) -> None:
        """Narrow the tree while the user types."""
        self.filter(event.value)

    @on(Input.Submitted, "#filter")
    def filter_done(self) -> None:
        """Go to the tree, and there to the first module that matches."""
        self.set_focus(self.model)
        scene = self.session.scene
        if scene is None or self.model.row is not None:
            return
        fates = scene.tree.nodes.fates
        first = next((row for row in scene.tree.rows() if fates[row.node] is not Fate.NO_PARAMETERS), None)
        if first is not None:
            self.model.go_to(first)

    def filter(self, text: str, only: TreeFilter | None = None) -> None:
        """Narrow the tree to what `text` matches; `only` narrows it further, None as before."""
        scene = self.session.scene
        if scene is None:
            return
        path = self.chosen_path
        try:
            scene.tree.filter(text, scene.tree.only if only is None else only)
        except TargetError as error:
            # The message is `target 'WORDS': what is wrong. What to write.`
            problem = str(error).partition(": ")[2].partition(". ")[0]
            self._filter_words.update(f"{keep_start(problem, 60)} ")
            return
        self.model.show(scene, path or None)
        self._refresh_filter_words(scene)
        self.details.show(scene, self.model.row)

    def clear_filter(self) -> None:
        # Without `prevent`, the emptied field would filter once more, a moment later.
        with self.prevent(Input.Changed):
            self.filter_field.value = ""
        self.filter("", TreeFilter.ALL)

    def action_filter(self) -> None:
        self.set_focus(self.filter_field)

    def action_clear(self) -> None:
        """Stop what is being opened; if nothing is, clear the filter and go to the tree."""
        if self.session.stop():
            return
        scene = self.session.scene
        if scene is not None and (self.filter_field.value or scene.tree.is_filtered):
            self.clear_filter()
        self.set_focus(self.model)

    def action_only(self) -> None:
        """Narrow the tree to the next of: all, adapted, missed, drifted, with findings."""
        scene = self.session.scene
        if scene is not None:
            self.filter(scene.tree.text, scene.next_filter)

    def action_empty(self) -> None:
        """Show modules without parameters, or hide them."""
        scene = self.session.scene
        if scene is not None:
            path = self.chosen_path
            scene.tree.show_empty(on=not scene.tree.with_empty)
            self.model.show(scene, path or None)
            self.tree_moved()

    # What can be taken out of it

    def outputs(self, scene: Scene) -> list[OutputFile]:
        """Return what `x` can write, what the user looks at first."""
        return outputs_of(scene, "findings" if self.focused is self.findings else self.details.tab)

    def copied_text(self) -> str:
        """Return the text of the pane that has the focus; of the details, if none has it."""
        focused = self.focused
        return focused.text if isinstance(focused, TreePane | TextPane) else self.details.pane.text

    def action_copy(self) -> None:
        self.copy(self.copied_text())

    def action_copy_python(self) -> None:
        if self.session.scene is not None:
            self.copy(python_snippet(self.session.scene.plan.lora.fields()))

    def action_copy_path(self) -> None:
        """Copy the path of the chosen module; of the model itself, the job's name."""
        self.copy(self.chosen_path or (self.session.scene.name if self.session.scene else ""))
