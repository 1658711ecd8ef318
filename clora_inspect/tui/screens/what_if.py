"""What-if: change the job in a form, see the difference, and keep it or not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
from textual import on, work
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label, TextArea

from clora.errors import CloraError
from clora_inspect.job.layout import AXES, AXIS_NAMES
from clora_inspect.job.workload import TYPED
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.tui.job.costs import has_costs, without_costs
from clora_inspect.tui.job.examine import Examined, examine_what_if
from clora_inspect.tui.job.free_path import free_path
from clora_inspect.tui.job.what_if_form import Draft, as_toml, draft_of, request_from
from clora_inspect.tui.panes.lines import BLANK, Line, Tone, wrapped
from clora_inspect.tui.panes.memory_diff import memory_diff_lines
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
BOXES = ("normalize_moe_lora", "share_expert_adapters", "sp", "counts_memory")
HINTS = {
    "etp": "tp",
    "packed": "one sequence a row",
    "num_microbatches": "fills the pipeline",
    "recompute": "as the model says",
}
"""Field -> what it means when it is empty. No other field may be."""


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
        self.memory_note = ""
        """Why no memory is shown: it is being counted, or cannot be counted."""
        self._request = job
        self._unchanged = self._draft = draft_of(job, counts_memory=has_costs(plan))

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
                for name in TYPED:
                    yield from self._field(name, name)
                yield TickBox("count the peak memory", draft.counts_memory, id="counts_memory")
            pane = TextPane(self.lines, id="text")
            pane.border_title = "Difference"
            yield pane
        # Letters are typed into the fields, so only keys with Ctrl are in this footer.
        actions = [BY_ID["back"], *footer_of(Context.WHAT_IF), BY_ID["command-palette"]]
        yield Footer(actions, id="footer")

    def _field(self, name: str, words: str) -> ComposeResult:
        with Horizontal(classes="field"):
            yield Label(words, markup=False)
            yield Input(getattr(self._draft, name), HINTS.get(name, ""), id=name, compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        """Begin in the first field."""
        targets = self.query_one("#target_modules", TextArea)
        # A blinking cursor redraws the screen twice a second, over any connection.
        targets.cursor_blink = False
        for field in self.query(Input):
            field.cursor_blink = False
        self.set_focus(targets)

    def draft(self) -> Draft:
        texts = {name: self.query_one(f"#{name}", Input).value for name in ("exclude_modules", *NUMBERS, *AXES, *TYPED)}
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
        self.after, self.error, self.memory_note = None, "", ""
        try:
            self._request = self._request_of_form()
            self.is_planning = True
            self._refresh()
            plan = await self._plan()
            # Both take long for a large model, and the user goes on typing.
            self.drift = await asyncio.to_thread(diff_plans, self.before, plan)
            await self._show_plan(plan)
        except CloraError as error:
            self.error = str(error)
            self._refresh()
            return
        finally:
            self.is_planning = False
        self._refresh()
        if self._counts_memory:
            await self._count(plan)

    def _request_of_form(self) -> PlanRequest:
        # The job itself, and not a copy of it, is what was planned and counted already.
        same = replace(self._draft, counts_memory=self._unchanged.counts_memory) == self._unchanged
        return self.job if same else request_from(self._draft, self.job)

    async def _plan(self) -> JobPlan:
        if msgspec.structs.replace(self._request, workload=self.job.workload) == self.job:
            # The workload changes no adapter. The plan may have the memory of the job.
            return without_costs(self.before)
        return await self.session.plan(self._request)

    async def _show_plan(self, plan: JobPlan) -> None:
        self.examined = await asyncio.to_thread(examine_what_if, self.session.opening, plan)
        self.after = plan

    @property
    def _counts_memory(self) -> bool:
        """Whether the form asks for memory. Who changes the workload wants to see what it costs."""
        return self._draft.counts_memory or self._request.workload != self.job.workload

    async def _count(self, plan: JobPlan) -> None:
        """Count the memory of the job, if that was not done, and of the form; show them."""
        self.memory_note = "The peak memory is being counted …"
        self._refresh()
        try:
            self.before = await self.session.with_memory(self.job, self.before)
            await self._show_plan(await self.session.with_memory(self._request, plan))
            self.memory_note = ""
        except (CloraError, OSError) as error:
            self.memory_note = f"The peak memory was not counted: {error}"
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
        memory = memory_diff_lines(self.before, self.after, self._gpu_memory_gib, width)
        if self.memory_note:
            memory = [*wrapped(self.memory_note, width, Tone.WARN), BLANK]
        return plan_diff_lines(self.before, self.after, self.drift, self.examined.findings, width, memory)

    @property
    def _gpu_memory_gib(self) -> float | None:
        return self.session.opening.gpu_memory_gib if self.session.opening else None

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
