"""The screens that only say something: help, a rule, the diff, the details of a narrow terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on

from clora_inspect.tui.job.examine import rule_page
from clora_inspect.tui.job.outputs import DRIFT, FINDINGS, TEXT, outputs_of
from clora_inspect.tui.panes import fates
from clora_inspect.tui.panes.findings import finding_detail
from clora_inspect.tui.panes.lines import BLANK, Line, Span, Target, Tone, line, wrapped
from clora_inspect.tui.panes.snapshot import diff_lines
from clora_inspect.tui.screens.base import SecondScreen
from clora_inspect.tui.widgets.actions import Context, footer_of, in_context
from clora_inspect.tui.widgets.actions import shown as shown_keys
from clora_inspect.tui.widgets.details import Details
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.one_line import Footer
from clora_inspect.tui.widgets.tabs import TABS
from clora_inspect.tui.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from clora_inspect.job.finding import Finding
    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow
    from clora_inspect.tui.widgets.actions import Action

LEGEND = (
    *fates.LEGEND,
    ("↕", Tone.WARN, "drifted: it differs from the snapshot"),
    ("✖", Tone.BAD, "an error; ▲ a warning, ℹ a remark"),
)


class HelpScreen(SecondScreen):
    """Every key, and what the signs of the tree mean."""

    HEADING = "Help"

    def lines(self, width: int) -> list[Line]:
        """The table of keys, first those of what had the focus."""
        lines: list[Line] = [line(Span("Signs", Tone.TITLE))]
        lines += [line("  ", Span(glyph, tone), f"  {words}"[: width - 3]) for glyph, tone, words in LEGEND]
        for context in (
            Context.MAIN,
            Context.TREE,
            Context.TEXT,
            Context.ANYWHERE,
            Context.WHAT_IF,
            Context.VERIFY,
            Context.SECOND,
        ):
            lines += [BLANK, line(Span(f"In {context}" if context is not Context.ANYWHERE else "Anywhere", Tone.TITLE))]
            for action in in_context(context):
                lines += self._row(action, width)
        return lines

    def _row(self, action: Action, width: int) -> list[Line]:
        keys = shown_keys(self.inspector.keymap.get(action.id, action.keys))
        return (
            wrapped(action.help, width, lead=f"  {keys:<10} ")
            if len(keys) <= 10
            else [
                line(Span(f"  {keys}", Tone.DIM)),
                *wrapped(action.help, width, lead=" " * 13),
            ]
        )


class FindingScreen(SecondScreen):
    """A finding in full, and the page of its rule."""

    HEADING = "Finding"

    def __init__(self, finding: Finding) -> None:
        """Of `finding`."""
        super().__init__()
        self.finding = finding

    def lines(self, width: int) -> list[Line]:
        """The finding, then its rule."""
        return [*finding_detail(self.finding, width), BLANK, *rule_lines(self.finding.code, width)]

    def outputs(self, _scene: Scene) -> list[OutputFile]:
        """All findings, or this text."""
        return [FINDINGS, TEXT]


class DiffScreen(SecondScreen):
    """Everything that changed since the snapshot."""

    HEADING = "Diff against the snapshot"

    def lines(self, width: int) -> list[Line]:
        """The drift."""
        scene = self.inspector.scene
        return diff_lines(scene, width) if scene else []

    def outputs(self, scene: Scene) -> list[OutputFile]:
        """The drift as data, or as text."""
        return [DRIFT, TEXT] if scene.drift is not None else [TEXT]


_OF_MAIN = frozenset(f"tab-{tab.name}" for tab in TABS) | {"next-rank", "previous-rank", "all-ranks", "explain"}
"""Actions of the main screen that the details have too where they stand alone."""


class DetailsScreen(SecondScreen):
    """The details of a module, where the terminal has no room for them beside the tree."""

    BINDINGS: ClassVar[list[BindingType]] = [binding for binding in bindings(Context.MAIN) if binding.id in _OF_MAIN]

    def __init__(self, row: TreeRow | None, tab: str) -> None:
        """Of `row`, beginning with `tab`."""
        super().__init__()
        self.row = row
        self.details = Details(id="details")
        self._tab = tab

    def compose(self) -> ComposeResult:
        """The details and the footer."""
        yield self.details
        yield Footer(footer_of(*self.CONTEXTS, Context.ANYWHERE), id="footer")

    def on_mount(self) -> None:
        """Show the row."""
        self.details.border_title = "Details"
        self.details.choose(self._tab)
        self.refresh_details()
        self.set_focus(self.details.pane)

    def scene_changed(self) -> None:
        """Follow the main screen's row."""
        self.row = self.inspector.main.model.row
        self.refresh_details()

    def refresh_details(self) -> None:
        """Show the row as it is now."""
        if self.inspector.scene is not None:
            self.details.show(self.inspector.scene, self.row, keep_place=True)

    def copied_text(self) -> str:
        """The text of the tab."""
        return self.details.pane.text

    def outputs(self, scene: Scene) -> list[OutputFile]:
        """As in the main screen."""
        return outputs_of(scene, self.details.tab)

    def on_resize(self) -> None:
        """Where the terminal grew wide the details stand beside the tree again."""
        self._leave_when_wide()

    def on_screen_resume(self) -> None:
        """It may have grown while another screen stood over this one."""
        self._leave_when_wide()

    def _leave_when_wide(self) -> None:
        if self.app.size.width >= self.inspector.WIDE and self.app.screen is self:
            self.inspector.main.choose_tab(self.details.tab)
            self.leave(None)

    @on(TextPane.Followed)
    def follow(self, event: TextPane.Followed) -> None:
        """A rank is chosen here; anything else is the main screen's."""
        event.stop()
        if event.link.target is Target.RANK:
            self.inspector.main.choose_rank(int(event.link.value))
            self._after_rank()
        else:
            self.go(event.link)

    def _after_rank(self) -> None:
        self.row = self.inspector.main.model.row
        self.refresh_details()

    def action_next_rank(self) -> None:
        """Look from the next rank class."""
        self.inspector.main.action_next_rank()
        self._after_rank()

    def action_previous_rank(self) -> None:
        """Look from the previous rank class."""
        self.inspector.main.action_previous_rank()
        self._after_rank()

    def action_all_ranks(self) -> None:
        """Look at the whole model again."""
        self.inspector.main.action_all_ranks()
        self._after_rank()

    def action_explain(self) -> None:
        """Explain the finding about this module."""
        self.inspector.main.action_explain()

    def action_tab(self, name: str) -> None:
        """Show a tab of the details."""
        self.details.choose(name)


def rule_lines(code: str, width: int) -> list[Line]:
    """The page of a rule: its Markdown, lightly set."""
    page = rule_page(code)
    if page is None:
        return wrapped(f"{code} has no page.", width, Tone.DIM)
    lines: list[Line] = []
    in_code = False
    paragraph = ""
    for row in [*page.splitlines(), ""]:
        text = row.rstrip()
        goes_on = bool(text) and not in_code and not text.startswith(("```", "#", "- ", "Bad:", "Good:"))
        if paragraph and not goes_on:
            lines += _paragraph(paragraph, width)
            paragraph = ""
        if goes_on:
            paragraph = f"{paragraph} {text.strip()}".strip()
        elif text.startswith("```"):
            in_code = not in_code
        elif in_code:
            lines.append(line(Span(f"    {text}"[:width], Tone.GOOD)))
        elif text.startswith("#"):
            lines.append(line(Span(text.lstrip("# "), Tone.TITLE)))
        elif text:
            paragraph = text
        else:
            lines.append(BLANK)
    return lines


def _paragraph(text: str, width: int) -> list[Line]:
    """Wrapped; an example with its verdict at the left, so that the good one stands below the bad
    one.
    """
    verdict, colon, example = text.partition(": ")
    if not colon or verdict not in ("Bad", "Good"):
        return wrapped(text, width)
    return wrapped(example.replace("`", ""), width, Tone.BAD if verdict == "Bad" else Tone.GOOD, lead=f"{verdict:<6}")
