"""The screens that only say something: help, a finding with its rule, the drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.tui.job.examine import rule_page
from clora_inspect.tui.job.outputs import DRIFT, FINDINGS, TEXT
from clora_inspect.tui.panes import fates
from clora_inspect.tui.panes.findings import finding_detail
from clora_inspect.tui.panes.lines import BLANK, Line, Span, Tone, line, wrapped
from clora_inspect.tui.panes.rule_page import rule_page_lines
from clora_inspect.tui.panes.snapshot import diff_lines
from clora_inspect.tui.screens.base import OverlayScreen
from clora_inspect.tui.widgets.actions import Context, in_context
from clora_inspect.tui.widgets.key_bindings import keys_of

if TYPE_CHECKING:
    from clora_inspect.job.finding import Finding
    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.session import Session
    from clora_inspect.tui.widgets.actions import Action

LEGEND = (
    *fates.LEGEND,
    ("↕", Tone.WARN, "drifted: it differs from the snapshot"),
    ("✖", Tone.BAD, "an error; ▲ a warning, ℹ a remark"),
)
"""Glyph, its tone, what it means."""

HELP_ORDER = (
    Context.MAIN,
    Context.TREE,
    Context.TEXT,
    Context.ANYWHERE,
    Context.WHAT_IF,
    Context.VERIFY,
    Context.OVERLAY,
)
"""The contexts in the order of the help: where a user is most comes first."""

KEY_COLUMN = 10
"""Cells for the keys of an action; longer ones stand on a line of their own."""


class HelpScreen(OverlayScreen):
    """Explains the signs of the tree and every key."""

    HEADING = "Help"

    def lines(self, width: int) -> list[Line]:
        """Return the legend, then the keys, context by context."""
        lines: list[Line] = [line(Span("Signs", Tone.TITLE))]
        lines += [line("  ", Span(glyph, tone), f"  {words}"[: width - 3]) for glyph, tone, words in LEGEND]
        for context in HELP_ORDER:
            lines += [BLANK, line(Span(f"In {context}" if context is not Context.ANYWHERE else "Anywhere", Tone.TITLE))]
            for action in in_context(context):
                lines += self._row(action, width)
        return lines

    def _row(self, action: Action, width: int) -> list[Line]:
        keys = keys_of(self.app, action)
        if len(keys) <= KEY_COLUMN:
            return wrapped(action.help, width, lead=f"  {keys:<{KEY_COLUMN}} ")
        return [line(Span(f"  {keys}", Tone.DIM)), *wrapped(action.help, width, lead=" " * (KEY_COLUMN + 3))]


class FindingScreen(OverlayScreen):
    """A finding in full, and the page of its rule."""

    HEADING = "Finding"

    def __init__(self, session: Session, finding: Finding) -> None:
        super().__init__(session)
        self.finding = finding

    def lines(self, width: int) -> list[Line]:
        """Return the finding, then the page of its rule."""
        code, page = self.finding.code, rule_page(self.finding.code)
        rule = wrapped(f"{code} has no page.", width, Tone.DIM) if page is None else rule_page_lines(page, width)
        return [*finding_detail(self.finding, width), BLANK, *rule]

    def outputs(self, scene: Scene) -> list[OutputFile]:  # noqa: ARG002  # the findings are of any scene
        """Return what `x` can write: all findings as data, or this text."""
        return [FINDINGS, TEXT]


class DiffScreen(OverlayScreen):
    """Everything that changed since the snapshot."""

    HEADING = "Diff against the snapshot"

    def lines(self, width: int) -> list[Line]:
        scene = self.session.scene
        return diff_lines(scene, width) if scene else []

    def outputs(self, scene: Scene) -> list[OutputFile]:
        """Return what `x` can write: the drift as data, or the text."""
        return [DRIFT, TEXT] if scene.drift is not None else [TEXT]
