"""What-if: change the job in a form, see the difference while it is planned in another process, and
keep it or not.
"""

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
from clora_inspect.tui.job.what_if_form import Draft, as_toml, draft_of, request_from
from clora_inspect.tui.panes.lines import BLANK, Line, Tone, wrapped
from clora_inspect.tui.panes.plan_diff import diff_plans, plan_diff_lines
from clora_inspect.tui.screens.base import SecondScreen
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

PAUSE = 0.4
"""Seconds without a key after which the form is planned."""

NUMBERS = ("dim", "alpha", "dropout")
TICKS = ("normalize_moe_lora", "share_expert_adapters", "sp")


class WhatIfScreen(SecondScreen):
    """The form at the left (above, on a narrow terminal), the difference beside it."""

    CONTEXTS = (Context.SECOND, Context.WHAT_IF)
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.WHAT_IF)]

    def __init__(self, job: PlanRequest, plan: JobPlan) -> None:
        """Start from `job`, whose plan is `plan`."""
        super().__init__()
        self.job = job
        self.before = plan
        self.after: JobPlan | None = None
        self.examined = Examined()
        self.drift: Drift | None = None
        self.message = ""
        self.is_planning = False
        self._request = job
        self._draft = draft_of(job)

    def compose(self) -> ComposeResult:
        """Form, difference, footer."""
        draft = self._draft
        with Horizontal(id="what-if"):
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
        # Letters belong to the fields here, so the footer has the other keys only.
        actions = [BY_ID["back"], *footer_of(Context.WHAT_IF), BY_ID["command-palette"]]
        yield Footer(actions, id="footer")

    def _field(self, name: str, words: str) -> ComposeResult:
        with Horizontal(classes="field"):
            yield Label(words, markup=False)
            yield Input(getattr(self._draft, name), id=name, compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        """Begin in the first field."""
        targets = self.query_one("#target_modules", TextArea)
        targets.cursor_blink = False
        for field in self.query(Input):
            field.cursor_blink = False
        self.set_focus(targets)

    def draft(self) -> Draft:
        """The form as it stands."""
        texts = {name: self.query_one(f"#{name}", Input).value for name in ("exclude_modules", *NUMBERS, *AXES)}
        ticks = {name: self.query_one(f"#{name}", TickBox).on for name in TICKS}
        return Draft(target_modules=self.query_one("#target_modules", TextArea).text, **texts, **ticks)  # type: ignore[arg-type]

    @on(Input.Changed)
    @on(TextArea.Changed)
    @on(TickBox.Changed)
    def changed(self) -> None:
        """Plan it after a pause."""
        if self.is_mounted and self.draft() != self._draft:
            self._draft = self.draft()
            self.plan_form()

    @on(Input.Submitted)
    def submitted(self) -> None:
        """Plan it now."""
        self.plan_form(pause=0)

    def action_plan_it(self) -> None:
        """Plan it now."""
        self.plan_form(pause=0)

    @work(exclusive=True, exit_on_error=False, group="what-if")
    async def plan_form(self, *, pause: float = PAUSE) -> None:
        """Read the form, plan it in the planner's process, show the difference."""
        await asyncio.sleep(pause)
        self.after, self.message = None, ""
        try:
            self._request = request_from(self._draft, self.job)
            self.is_planning = True
            self._refresh()
            plan = await self.inspector.plan(self._request)
            self.drift = await asyncio.to_thread(diff_plans, self.before, plan)
            self.examined = await asyncio.to_thread(examine_what_if, self.inspector.opening, plan)
            self.after = plan
        except CloraError as error:
            self.message = str(error)
        finally:
            self.is_planning = False
        self._refresh()

    def _refresh(self) -> None:
        if self.is_mounted:
            self.query_one("#text", TextPane).show()

    def lines(self, width: int) -> list[Line]:
        """The difference, or what stands in its way."""
        if self.message:
            return wrapped(self.message, width, Tone.BAD)
        if self.is_planning:
            warm = self.inspector.planner.is_warm
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
            self.inspector.complain(str(error))
            return None

    def action_copy_toml(self) -> None:
        """Copy the form as TOML."""
        text = self._toml()
        if text is not None:
            self.inspector.copy(text)

    def action_save_toml(self) -> None:
        """Write the form to a file that is not there yet."""
        text = self._toml()
        if text is None:
            return
        path = _free_path(Path.cwd())
        try:
            write_atomically(path, text.encode())
        except OSError as error:
            self.inspector.complain(f"{path} cannot be written: {error.strerror or error}")
        else:
            self.inspector.tell(f"Wrote {path.name}. Your configuration is as it was.")

    def action_use_it(self) -> None:
        """Look at the new plan in the main screen."""
        if self.after is None:
            self.inspector.complain("There is no new plan yet: change a field and wait for its difference.")
            return
        self.inspector.explore(self._request, self.after)
        self.leave(None)


def _free_path(folder: Path) -> Path:
    """`what-if.toml`, or the first `what-if-2.toml`, ... that does not exist."""
    names = ("what-if.toml", *(f"what-if-{number}.toml" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())
