"""`InspectorApp`: opens jobs and plans, keeps the scene, and does what every screen may ask for."""

from __future__ import annotations

import asyncio
import gc
import os
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import App
from textual.filter import Monochrome
from textual.worker import Worker, WorkerState

from clora.errors import CloraError
from clora_inspect.job.finding import Severity
from clora_inspect.machine.collector import collector_paused
from clora_inspect.tui.job.examine import Examined, accept, examine
from clora_inspect.tui.job.free_path import free_path
from clora_inspect.tui.job.opening import Opening, choices, opening_of
from clora_inspect.tui.job.plan_file import read_plan
from clora_inspect.tui.job.planner import Planner
from clora_inspect.tui.panes.scene import Scene
from clora_inspect.tui.screens.base import SecondScreen
from clora_inspect.tui.screens.main import MainScreen
from clora_inspect.tui.tree.build import model_nodes
from clora_inspect.tui.tree.rows import TreeModel
from clora_inspect.tui.widgets.actions import Context, keymap_problems
from clora_inspect.tui.widgets.filters import AsciiOnly, Colourless
from clora_inspect.tui.widgets.key_bindings import bindings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from textual.app import SystemCommand
    from textual.binding import BindingType
    from textual.command import Provider
    from textual.filter import LineFilter
    from textual.screen import Screen

    from clora_inspect.config.load import Configuration
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.tui.job.plan_request import PlanRequest
    from clora_inspect.tui.tree.nodes import ModelNodes

WITHOUT_A_WORD = 8_000_000
"""Bytes of a saved plan that is read before the first frame: a frame that says so would stand for
less time than it takes to make it.
"""

AT_ONCE = 200_000_000
"""Bytes of a saved plan that is read while nothing else is done, half a second at most: beside a
living interface it takes much longer.
"""

READABLE = 200_000
"""Bytes of a configuration file that are read for the Source pane."""


def _action_provider() -> type[Provider]:
    """The palette's actions; what they need is imported with the palette."""
    from clora_inspect.tui.screens.palette import ActionProvider

    return ActionProvider


class InspectorApp(App[None]):
    """The interface."""

    TITLE = "clora-inspect"
    CSS_PATH = "app.tcss"
    WIDE = 100
    """Columns from which the details stand beside the tree."""
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (80, "-narrow"), (100, "-wide")]  # noqa: RUF012  # Textual annotates it as an instance variable
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-low"), (30, "-high")]  # noqa: RUF012
    COMMANDS = App.COMMANDS | {_action_provider}
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.ANYWHERE)]
    ENABLE_COMMAND_PALETTE = True
    ALLOW_SELECT = False
    """Text is copied with y, or selected by the terminal; Textual's own selection stumbles over
    panes that go.
    """

    def __init__(
        self,
        opening: Opening | None,
        *,
        configuration: Configuration | None = None,
        keymap: Mapping[str, str] | None = None,
        planner: Planner | None = None,
        ascii_only: bool = False,
        no_color: bool = False,
    ) -> None:
        """Open `opening`; None asks the user what to open.

        Args:
            opening: a job or a file.
            configuration: the user's.
            keymap: the user's own keys, by action.
            planner: what plans jobs.
            ascii_only: show no character beyond ASCII.
            no_color: show no colour, as `NO_COLOR` in the environment asks for.
        """
        super().__init__()
        self.no_color = self.no_color or no_color
        self._line_filters: list[LineFilter] = []
        if self.no_color:
            # What colour alone would say (where the cursor is, which pane has the focus) is said by
            # other means then.
            self.add_class("-no-color")
            self._line_filters.append(Colourless())
        if ascii_only:
            self._line_filters.append(AsciiOnly())
        self.opening = opening
        self.configuration = configuration or (opening.configuration if opening else None)
        self.keymap = {name: keys for name, keys in (keymap or {}).items() if not keymap_problems({name: keys})}
        self._keymap_problems = keymap_problems(dict(keymap or {}))
        self.planner = planner or Planner()
        self.scene: Scene | None = None
        self.main = MainScreen()
        self._opening_worker: Worker[None] | None = None
        self._is_reading = False

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters, then ours."""
        filters = super().get_line_filters()
        if self.no_color:
            filters = [each for each in filters if not isinstance(each, Monochrome)]
        return [*filters, *self._line_filters]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Textual's own commands in the palette, but for those that the table has too."""
        ours = {"Keys", "Quit", "Screenshot"}
        return [command for command in super().get_system_commands(screen) if command.title not in ours]

    def on_mount(self) -> None:
        """The first screen: with a small plan on it at once; what takes its time follows."""
        self.set_keymap(self.keymap)
        if self._bytes_to_read() <= WITHOUT_A_WORD:
            self._read_saved()
        self.push_screen(self.main)
        for problem in self._keymap_problems:
            self.complain(problem)
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        if self.scene is not None:
            self._opening_worker = self._examine_again()
        elif self.opening is None:
            self.choose_job()
        elif 0 < self._bytes_to_read() <= AT_ONCE:
            self._is_reading = True
            self.main.busy(f"reading {self.opening.name}")
            self.call_after_refresh(self._read_now)
        else:
            self.open(self.opening)

    def _bytes_to_read(self) -> int:
        """Size of the saved plan that is to be opened; 0 where there is none, or it cannot be read."""
        path = self.opening.path if self.opening is not None else None
        try:
            return path.stat().st_size if path is not None else 0
        except OSError:
            return 0

    def _read_now(self) -> None:
        self._is_reading = False
        self._read_saved()
        if self.scene is None and self.opening is not None:
            # It is opened again, and what is wrong with it told.
            self.open(self.opening)
        else:
            self.main.refresh_all(path="")
            self._opening_worker = self._examine_again()

    def _read_saved(self) -> None:
        """Read the plan, here and now. What is wrong with it is told later, when it is opened
        again.
        """
        opening = self.opening
        if opening is None or opening.path is None:
            return
        with suppress(CloraError, OSError):
            self._set_scene(opening, *_read(opening.path))

    # Opening

    @property
    def is_opening(self) -> bool:
        """Whether something is being opened."""
        return self._is_reading or (
            self._opening_worker is not None
            and self._opening_worker.state in (WorkerState.PENDING, WorkerState.RUNNING)
        )

    def open(self, opening: Opening) -> None:
        """Open a job or a file, while the interface stays usable."""
        self._opening_worker = self._open(opening)

    @work(exclusive=True, exit_on_error=False, group="open")
    async def _open(self, opening: Opening) -> None:
        words = (
            f"reading {opening.path.name}"
            if opening.path
            else f"planning {opening.name}: {opening_words(self.planner)}"
        )
        self.main.busy(f"{words}   (esc stops it)")
        try:
            if opening.path is not None:
                await self._show(opening, *await asyncio.to_thread(_read, opening.path))
                return
            request = opening.request(None)
            if request is not None:
                plan = await self.plan(request)
                await self._show(opening, plan, *await asyncio.to_thread(_grown, plan))
        except (CloraError, OSError) as error:
            self.complain(str(error))
            if self.scene is None:
                self.main.busy("nothing is open: press O to choose a job")
                return
        except asyncio.CancelledError:
            if self.is_running:
                self.main.busy("" if self.scene else "stopped: press O to choose a job")
            raise
        finally:
            if self.scene is not None:
                self.main.busy("")

    async def _show(self, opening: Opening, plan: JobPlan, nodes: ModelNodes, tree: TreeModel) -> None:
        self._set_scene(opening, plan, nodes, tree)
        self.main.refresh_all(path="")
        await self._examine(opening, plan)

    async def _examine(self, opening: Opening, plan: JobPlan) -> None:
        """Findings and drift; before them what the first filter needs, because that is what a user
        does first.
        """
        if self.scene is not None:
            await asyncio.to_thread(self.scene.tree.search_ready)
        examined = await asyncio.to_thread(examine, opening, plan)
        if self.main.is_there:
            self._show_examined(examined)

    def _set_scene(self, opening: Opening, plan: JobPlan, nodes: ModelNodes, tree: TreeModel) -> None:
        self.opening = opening
        self.scene = Scene(
            name=opening.name if opening.job is not None else plan.model.name or opening.name,
            layout_name=opening.layout_name,
            plan=plan,
            tree=tree,
            snapshot_note="not looked at yet",
            findings=plan.findings,
            location_of=opening.location_of,
            file_lines=self._file_lines,
        )
        self.main.open_nodes(nodes)

    def _show_examined(self, examined: Examined) -> None:
        from dataclasses import replace

        scene = self.scene
        if scene is None:
            return
        self.scene = replace(
            scene, findings=examined.findings, drift=examined.drift, snapshot_note=examined.snapshot_note
        )
        row = self.main.model.row
        scene.tree.mark(*self.marks())
        self.main.refresh_all(path=row.path if row else "")

    def marks(self) -> tuple[list[str], list[str], list[str]]:
        """The places that findings, drift and errors are about."""
        scene = self.scene
        if scene is None:
            return [], [], []
        found = [finding.where for finding in scene.findings if finding.where]
        wrong = [finding.where for finding in scene.findings if finding.where and finding.severity is Severity.ERROR]
        return found, [change.where for change in scene.drift.lines] if scene.drift else [], wrong

    async def plan(self, request: PlanRequest) -> JobPlan:
        """Plan in the planner's process.

        Raises:
            CloraError: it cannot be planned.
        """
        from clora_inspect.job.plan import decode

        data = await self.planner.plan(request)
        return await asyncio.to_thread(decode, data, "the planner's answer")

    def explore(self, request: PlanRequest, plan: JobPlan) -> None:
        """Look at a plan that was only tried."""
        from clora_inspect.config.jobs import ConfiguredJob

        old = self.opening
        tried = Opening(
            name=(self.scene.name if self.scene else "what-if").removesuffix(" (what-if)") + " (what-if)",
            job=ConfiguredJob(name="what-if", layout_name="what-if", job=request.job()),
            configuration=old.configuration if old else None,
        )
        self._opening_worker = self._explore(tried, plan)

    @work(exclusive=True, exit_on_error=False, group="open")
    async def _explore(self, opening: Opening, plan: JobPlan) -> None:
        await self._show(opening, plan, *await asyncio.to_thread(_grown, plan))

    def choose_job(self) -> None:
        """Ask what to open."""
        from clora_inspect.tui.screens.choose import ChooseScreen

        options = [(choice.name, choice.name, choice.words) for choice in choices(self.configuration)]
        self.push_screen(
            ChooseScreen("Open a job, an architecture or a saved plan", options, free=True), self._job_chosen
        )

    def _job_chosen(self, name: str | None) -> None:
        if name is None:
            if self.scene is None:
                self.main.busy("nothing is open: press O to choose a job")
            return
        try:
            self.open(opening_of(name, self.configuration))
        except CloraError as error:
            self.complain(str(error))

    def stop(self) -> bool:
        """Stop what is being opened; False when nothing is."""
        if self.is_opening and self._opening_worker is not None:
            self._opening_worker.cancel()
            return True
        return False

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """A worker that failed says so, and the interface goes on."""
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            error = event.worker.error
            self.complain(str(error) if isinstance(error, CloraError) else f"{type(error).__name__}: {error}")
            self.main.busy("" if self.scene else "nothing is open: press O to choose a job")

    def accept(self, chosen: Callable[[str], bool] | None = None) -> None:
        """Make the plan the job's snapshot; with `chosen` only the placements at the places that it
        says yes to.
        """
        if self.opening is None or self.scene is None:
            return
        try:
            path = accept(self.opening, self.scene.plan, chosen)
        except (CloraError, OSError) as error:
            self.complain(str(error))
            return
        self.tell(f"Accepted: {path.name} is the plan as it stands{' here' if chosen else ''}.")
        self._opening_worker = self._examine_again()

    @work(exclusive=True, exit_on_error=False, group="open")
    async def _examine_again(self) -> None:
        if self.opening is not None and self.scene is not None:
            self.main.busy("looking for findings, and for drift from the snapshot")
            await self._examine(self.opening, self.scene.plan)
            self.main.busy("")

    # What every screen may ask for

    def tell(self, words: str) -> None:
        """Say that something was done."""
        self.notify(words, markup=False)

    def complain(self, words: str) -> None:
        """Say that something is wrong."""
        self.notify(words, severity="error", markup=False, timeout=12)

    def copy(self, text: str) -> None:
        """Put text on the clipboard, through the terminal."""
        if text:
            self.copy_to_clipboard(text)
            lines = text.count("\n") + 1
            self.tell(f"Copied {lines} line{'s' if lines > 1 else ''}.")

    def edit(self, place: str) -> None:
        """Open `path:line` in the user's editor, and come back."""
        name, _, number = place.rpartition(":")
        path, at = (Path(name), number) if number.isdigit() else (Path(place), "1")
        root = self.configuration.root if self.configuration else Path.cwd()
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if not editor:
            self.complain(f"Set $EDITOR to open {place}.")
            return
        try:
            with self.suspend():
                subprocess.run([*shlex.split(editor), f"+{at}", str(root / path)], check=False)  # noqa: S603  # the user's own editor
        except (OSError, ValueError) as error:
            self.complain(f"{editor} cannot be started: {error}")
        except Exception as error:  # noqa: BLE001  # a terminal that cannot be suspended
            self.complain(f"The editor cannot be opened here: {error}")

    def _file_lines(self, file: str, first: int, last: int) -> list[str]:
        root = self.configuration.root if self.configuration else Path.cwd()
        try:
            with (root / file).open(encoding="utf-8", errors="replace") as opened:
                return opened.read(READABLE).splitlines()[first - 1 : last]
        except OSError:
            return []

    def action_help(self) -> None:
        """Say what every key does."""
        from clora_inspect.tui.screens.text import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    def action_jump(self) -> None:
        """Show a letter on every pane."""
        if self.screen is self.main:
            self.main.jump()

    def action_screenshot(self, filename: str | None = None, path: str | None = None) -> None:
        """Save the screen as an SVG file in the working directory."""
        folder = Path(path or ".")
        target = folder / filename if filename else free_path(folder, "clora-inspect", ".svg")
        try:
            target.write_text(self.export_screenshot(), encoding="utf-8")
        except OSError as error:
            self.complain(f"{target} cannot be written: {error.strerror or error}")
        else:
            self.tell(f"Saved {target}.")

    def action_export(self) -> None:
        """Ask what of the screen to write, and where."""
        from clora_inspect.tui.screens.export import Exporter

        scene, screen = self.scene, self.screen
        if scene is None:
            self.complain("Nothing is open yet that could be written.")
        elif isinstance(screen, MainScreen | SecondScreen):
            proofs = screen.proofs if isinstance(screen, SecondScreen) else ()
            Exporter(self, scene, screen.outputs(scene), text=screen.copied_text(), proofs=proofs).begin()

    def action_next_theme(self) -> None:
        """Take the next theme."""
        names = sorted(self.available_themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self.tell(f"Theme: {self.theme}")

    async def action_quit(self) -> None:
        """Leave, and end the planner."""
        await self.planner.aclose()
        self.exit()

    async def on_unmount(self) -> None:
        """End the planner however the interface ends."""
        await self.planner.aclose()


def opening_words(planner: Planner) -> str:
    """What takes the time."""
    return (
        "building the model on the meta device"
        if planner.is_warm
        else "importing torch and megatron-core, building the model"
    )


def _read(path: Path) -> tuple[JobPlan, ModelNodes, TreeModel]:
    """The saved plan and its module tree.

    Raises:
        CloraError: it is neither a plan nor a snapshot.
        OSError: it cannot be read.
    """
    with collector_paused():
        plan = read_plan(path)
        return plan, *_grown(plan)


def _grown(plan: JobPlan) -> tuple[ModelNodes, TreeModel]:
    """The module tree. Plan and tree stay, so the collector need not look at them ever, not even on
    its way back from a pause.
    """
    with collector_paused():
        nodes = model_nodes(plan)
        tree = TreeModel(nodes)
        gc.freeze()
        return nodes, tree
