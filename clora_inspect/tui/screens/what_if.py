"""What-if: change the job in a form, see the difference, and keep it or not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label, TextArea

from clora.errors import CloraError
from clora_inspect.job.layout import AXES, AXIS_NAMES
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.tui.job.examine import Examined, examine_what_if
from clora_inspect.tui.job.free_path import free_path
from clora_inspect.tui.job.what_if_form import Draft, as_toml, draft_of, request_from
from clora_inspect.tui.panes.lines import BLANK, Line, Tone, wrapped
from clora_inspect.tui.panes.plan_diff import diff_plans, plan_diff_lines
from clora_inspect.tui.screens.base import OverlayScreen
from clora_inspect.tui.widgets.actions import BY_ID, Context, footer_of
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.one_line import Footer
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.tui.widgets.tick_box import TickBox

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.tui.job.plan_request import PlanRequest
    from clora_inspect.tui.session import Session

PAUSE = 0.4
"""Seconds after the last key until the form is planned."""

NUMBERS = ("dim", "alpha", "dropout")
BOXES = ("normalize_moe_lora", "share_expert_adapters", "sp")


class WhatIfScreen(OverlayScreen):
    """The form at the left (above, on a narrow terminal), the difference beside it."""

    CONTEXTS = (Context.OVERLAY, Context.WHAT_IF)
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.WHAT_IF)]

    def __init__(self, session: Session, job: PlanRequest, plan: JobPlan) -> None:
        """Start from `job`, whose plan is `plan`."""
        super().__init__(session)
        self.job = job
        self.before = plan
        self.after: JobPlan | None = None
        """The plan of the form; None until the form as it stands has been planned."""
        self.examined = Examined()
        self.drift: Drift | None = None
        self.error = ""
        """Why the form cannot be planned."""
        self.is_planning = False
        self._request = job
        self._draft = draft_of(job)

    def compose(self) -> ComposeResult:
        """Yield the form, the difference and the footer."""
        draft = self._draft
        with Horizontal(id="what-if"):
            # Tab is to go from field to field, and not to what holds them.
            with VerticalScroll(id="form", can_focus=False) as form:
                form.border_title = "What if …"
                yield Label("target_modules, one a line", markup=False)
                yield TextArea(
                    draft.target_modules, id="target_modules", compact=True, soft_wrap=False, tab_behavior="focus"
                )
                yield Label("exclude_modules: all linears but these", markup=False)
                yield Input(draft.exclude_modules, id="exclude_modules", compact=True, select_on_focus=False)
                for name in NUMBERS:
                    yield from self._field(name, name)
                yield TickBox("experts get rank dim // topk", draft.normalize_moe_lora, id="normalize_moe_lora")
                yield TickBox("experts share one pair", draft.share_expert_adapters, id="share_expert_adapters")
                for axis, name in AXIS_NAMES.items():
                    yield from self._field(axis, f"{axis:<4} {name}")
                yield TickBox("sequence parallelism", draft.sp, id="sp")
            pane = TextPane(self.lines, id="text")
            pane.border_title = "Difference"
            yield pane
        # Letters are typed into the fields, so only keys with Ctrl are in this footer.
        actions = [BY_ID["back"], *footer_of(Context.WHAT_IF), BY_ID["command-palette"]]
        yield Footer(actions, id="footer")

    def _field(self, name: str, words: str) -> ComposeResult:
        with Horizontal(classes="field"):
            yield Label(words, markup=False)
            # An etp that is left empty is tp; no other field may be empty.
            hint = "tp" if name == "etp" else ""
            yield Input(getattr(self._draft, name), hint, id=name, compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        """Begin in the first field."""
        targets = self.query_one("#target_modules", TextArea)
        # A blinking cursor redraws the screen twice a second, over any connection.
        targets.cursor_blink = False
        for field in self.query(Input):
            field.cursor_blink = False
        self.set_focus(targets)

    def draft(self) -> Draft:
        texts = {name: self.query_one(f"#{name}", Input).value for name in ("exclude_modules", *NUMBERS, *AXES)}
        boxes = {name: self.query_one(f"#{name}", TickBox).on for name in BOXES}
        return Draft(target_modules=self.query_one("#target_modules", TextArea).text, **texts, **boxes)  # type: ignore[arg-type]

    @on(Input.Changed)
    @on(TextArea.Changed)
    @on(TickBox.Changed)
    def changed(self) -> None:
        """Plan the form after a pause, if it has changed."""
        # Textual sends such messages also while it fills the fields at the start.
        if self.is_mounted and self.draft() != self._draft:
            self._draft = self.draft()
            self.plan_form()

    @on(Input.Submitted)
    def submitted(self) -> None:
        self.plan_form(pause=0)

    def action_plan_it(self) -> None:
        self.plan_form(pause=0)

    @work(exclusive=True, exit_on_error=False, group="what-if")
    async def plan_form(self, *, pause: float = PAUSE) -> None:
        """Plan the form in a child process and show the difference. A change of the form meanwhile
        ends this and begins anew.
        """
        await asyncio.sleep(pause)
        # Until it is planned again, the difference is that of another form.
        self.after, self.error = None, ""
        try:
            self._request = request_from(self._draft, self.job)
            self.is_planning = True
            self._refresh()
            plan = await self.session.plan(self._request)
            # Both take long for a large model, and the user goes on typing.
            self.drift = await asyncio.to_thread(diff_plans, self.before, plan)
            self.examined = await asyncio.to_thread(examine_what_if, self.session.opening, plan)
            self.after = plan
        except CloraError as error:
            self.error = str(error)
        finally:
            self.is_planning = False
        self._refresh()

    def _refresh(self) -> None:
        if self.is_mounted:
            self.query_one("#text", TextPane).show()

    def lines(self, width: int) -> list[Line]:
        """Return the difference, or why there is none."""
        if self.error:
            return wrapped(self.error, width, Tone.BAD)
        if self.is_planning:
            warm = self.session.processes.is_warm
            return wrapped(
                "planning …" if warm else "planning: importing megatron-core the first time …", width, Tone.WARN
            )
        if self.after is None or self.drift is None:
            return [
                *wrapped(
                    "Change a field: the job is planned again and the difference stands here. Nothing is written.",
                    width,
                ),
                BLANK,
                *wrapped(
                    "esc goes back, ^t copies the form as TOML, ^s writes it to a new file, ^g explores the new plan.",
                    width,
                    Tone.DIM,
                ),
            ]
        return plan_diff_lines(self.before, self.after, self.drift, self.examined.findings, width)

    def _toml(self) -> str | None:
        try:
            return as_toml(request_from(self.draft(), self.job), "what-if")
        except CloraError as error:
            self.complain(str(error))
            return None

    def action_copy_toml(self) -> None:
        text = self._toml()
        if text is not None:
            self.copy(text)

    def action_save_toml(self) -> None:
        """Write the form as TOML to a file that does not exist yet."""
        text = self._toml()
        if text is None:
            return
        path = free_path(Path.cwd(), "what-if", ".toml")
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            self.complain(f"{path} cannot be written: {error.strerror or error}")
        else:
            self.tell(f"Wrote {path.name}. Your configuration is as it was.")

    def action_use_it(self) -> None:
        """Show the new plan in the main screen."""
        if self.after is None:
            self.complain("There is no new plan yet: change a field and wait for its difference.")
            return
        self.session.explore(self._request, self.after)
        self.leave(None)
