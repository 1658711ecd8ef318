"""`Session`: what is open. It reads and plans jobs, examines them, and keeps the scene that the
panes show.

The screens call it. It reports what happens to its `SessionDisplay`, which is the main screen.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clora.errors import CloraError
from clora.folders.regular_file import read_beginning
from clora_inspect.job.finding import Severity
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.git_repository import is_in_repository
from clora_inspect.tui.job.child import ChildProcesses
from clora_inspect.tui.job.command_lines import plan_words
from clora_inspect.tui.job.costs import Costs, decode_costs, has_costs, with_costs
from clora_inspect.tui.job.examine import accept, examine
from clora_inspect.tui.job.opening import Opening, opening_of
from clora_inspect.tui.job.plan_file import read_plan
from clora_inspect.tui.panes.coordinates import class_of
from clora_inspect.tui.panes.scene import Scene
from clora_inspect.tui.tree.build import model_nodes
from clora_inspect.tui.tree.rows import TreeModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.worker import Worker

    from clora_inspect.config.load import Configuration
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.tui.display import SessionDisplay
    from clora_inspect.tui.job.examine import Examined
    from clora_inspect.tui.job.plan_request import PlanRequest
    from clora_inspect.tui.tree.nodes import ModelNodes

READ_BEFORE_FIRST_FRAME = 8_000_000
"""Largest saved plan, in bytes, that is read before anything is drawn. Below this size reading is
faster than drawing a frame that says so.
"""

READ_IN_THIS_THREAD = 200_000_000
"""Largest saved plan, in bytes, that is read while the interface waits: half a second. In a thread
beside a living interface it takes much longer.
"""

LONGEST_SOURCE = 200_000
"""Bytes of a configuration file that are read for the Source pane."""

MOST_COSTS = 64
"""Number of plans whose costs are kept. Each is some kilobytes large."""

NOTHING_OPEN = "nothing is open: press O to choose a job"


class Session:
    """The job or the plan that is open."""

    def __init__(
        self,
        opening: Opening | None,
        configuration: Configuration | None,
        processes: ChildProcesses,
        *,
        counts_memory: bool = False,
    ) -> None:
        self.opening = opening
        self.configuration = configuration or (opening.configuration if opening else None)
        self.processes = processes
        self.scene: Scene | None = None
        """None until something has been opened."""
        self._display: SessionDisplay | None = None
        self._work: Worker[None] | None = None
        self.failure: CloraError | OSError | None = None
        """Why the last thing could not be opened; None if it could, or is still being opened."""
        self._is_reading = False
        self.counts_memory = counts_memory
        """Whether the memory of everything that is opened is counted, beside the interface."""
        self._counting: Worker[None] | None = None
        self._one_count_at_a_time = asyncio.Lock()
        self._costs: dict[bytes, Costs] = {}
        """Costs that were counted already, by the request in JSON."""
        self._busy: dict[str, str] = {}
        """Work that is under way, in words; opening and counting each have an entry."""
        self._trees: dict[int | None, ModelNodes] = {}
        """Module trees that were built already: of a rank class by its index, of all by None."""

    def show_on(self, display: SessionDisplay) -> None:
        """Show everything on `display` from now on."""
        self._display = display

    @property
    def display(self) -> SessionDisplay:
        """The screen that shows the session."""
        if self._display is None:
            raise RuntimeError("a session is shown on nothing before `show_on`")
        return self._display

    @property
    def root(self) -> Path:
        """The folder that the files of the configuration are relative to."""
        return self.configuration.root if self.configuration else Path.cwd()

    @property
    def request(self) -> PlanRequest | None:
        """The job as it can be planned again. None when nothing is open, or when what is open does
        not say its model: a snapshot does not.
        """
        request = self.opening.request(self.scene.plan) if self.opening and self.scene else None
        return request if request is not None and request.model else None

    # The beginning

    def read_before_first_frame(self) -> None:
        """Read the saved plan that was given, if it is small."""
        if self._bytes_to_read() <= READ_BEFORE_FIRST_FRAME:
            self._read_saved()

    def begin(self) -> None:
        """Open what was given, after the first frame."""
        if self.scene is not None:
            self._examine_again()
        elif self.opening is None:
            self.display.ask_for_job()
        elif 0 < self._bytes_to_read() <= READ_IN_THIS_THREAD:
            self._is_reading = True
            self._say_busy(f"reading {self.opening.name}")
            # A frame with these words is drawn first: nothing is while the file is read.
            self.display.after_next_frame(self._read_now)
        else:
            self.open(self.opening)

    def _bytes_to_read(self) -> int:
        """Return the size of the given saved plan; 0 when there is none that can be read."""
        path = self.opening.path if self.opening is not None else None
        try:
            return path.stat().st_size if path is not None else 0
        except OSError:
            return 0

    def _read_now(self) -> None:
        self._is_reading = False
        self._read_saved()
        if self.scene is None and self.opening is not None:
            # Reading it again, as everything else is opened, says what is wrong with it.
            self.open(self.opening)
        else:
            self.display.refresh_all(path="")
            self._examine_again()

    def _read_saved(self) -> None:
        opening = self.opening
        if opening is not None and opening.path is not None:
            with suppress(CloraError, OSError):
                self._set_scene(opening, *_read(opening.path))

    # Opening

    @property
    def is_opening(self) -> bool:
        """Whether something is being opened or examined."""
        return self._is_reading or (self._work is not None and not self._work.is_finished)

    def open(self, opening: Opening) -> None:
        """Open a job or a saved plan, while the interface stays usable."""
        self.failure = None
        # The files of a job may have changed since they were read.
        self._costs.clear()
        self._stop_counting()
        self._work = self.display.start(partial(self._open, opening))

    def open_named(self, name: str) -> None:
        """Open what `name` means, or tell why it means nothing."""
        try:
            self.open(opening_of(name, self.configuration))
        except CloraError as error:
            self.display.complain(str(error))

    def explore(self, request: PlanRequest, plan: JobPlan) -> None:
        """Show a plan that was only tried."""
        from clora_inspect.config.jobs import ConfiguredJob

        name = (self.scene.name if self.scene else "what-if").removesuffix(" (what-if)")
        # A job of no configuration has no snapshot: nothing tried can be accepted by mistake.
        tried = Opening(
            name=f"{name} (what-if)",
            job=ConfiguredJob(
                name="what-if",
                layout_name="what-if",
                job=request.job(),
                gpu_memory_gib=self.opening.gpu_memory_gib if self.opening else None,
                workload=request.workload,
            ),
            configuration=self.opening.configuration if self.opening else None,
        )
        self._stop_counting()
        self._work = self.display.start(partial(self._explore, tried, plan))

    def stop(self) -> bool:
        """Stop what is being opened, else what is being counted, and return whether there was
        anything.
        """
        if self._work is not None and self.is_opening:
            self._work.cancel()
        elif self._stop_counting():
            self.counts_memory = False
        else:
            return False
        return True

    def _stop_counting(self) -> bool:
        """Stop what is being counted, and return whether there was anything."""
        if self._counting is None or not self.is_counting:
            return False
        self._counting.cancel()
        return True

    def _say_busy(self, words: str, *, work: str = "opening") -> None:
        """Show what `work` is doing; with no words, that it has ended."""
        self._busy[work] = words
        self.display.say_busy(next(filter(None, self._busy.values()), ""))

    def tell_failure(self, error: BaseException) -> None:
        """Tell the user that work beside the interface has failed."""
        self.display.complain(str(error) if isinstance(error, CloraError) else f"{type(error).__name__}: {error}")
        self._say_busy("" if self.scene else NOTHING_OPEN)

    async def _open(self, opening: Opening) -> None:
        doing = f"reading {opening.path.name}" if opening.path else f"planning {opening.name}: {self._slow_part()}"
        self._say_busy(f"{doing}   (esc stops it)")
        # Threads and a child process: the event loop, and so the keyboard, never waits.
        try:
            if opening.path is not None:
                await self._show(opening, *await asyncio.to_thread(_read, opening.path))
            elif (request := opening.request(None)) is not None:
                await self._explore(opening, await self.plan(request))
        except (CloraError, OSError) as error:
            self.failure = error
            self.display.complain(str(error))
            self._say_busy("" if self.scene else NOTHING_OPEN)
        except asyncio.CancelledError:
            if self.display.is_there:
                self._say_busy("" if self.scene else "stopped: press O to choose a job")
            raise
        else:
            self._say_busy("")

    def _slow_part(self) -> str:
        if self.processes.is_warm:
            return "building the model on the meta device"
        return "importing torch and megatron-core, building the model"

    async def _explore(self, opening: Opening, plan: JobPlan) -> None:
        await self._show(opening, plan, *await asyncio.to_thread(_tree_of, plan))

    async def _show(self, opening: Opening, plan: JobPlan, nodes: ModelNodes, tree: TreeModel) -> None:
        self._set_scene(opening, plan, nodes, tree)
        self.display.refresh_all(path="")
        await self._examine(opening, plan)
        self._count_if_wanted()

    def _set_scene(self, opening: Opening, plan: JobPlan, nodes: ModelNodes, tree: TreeModel) -> None:
        self.opening = opening
        self._trees = {None: nodes}
        self.scene = Scene(
            name=opening.name if opening.job is not None else plan.model.name or opening.name,
            layout_name=opening.layout_name,
            plan=plan,
            tree=tree,
            # Until `_examine` has ended. The plan has findings of its own to show till then.
            snapshot_note="not looked at yet",
            findings=plan.findings,
            gpu_memory_gib=opening.gpu_memory_gib,
            location_of=opening.location_of,
            file_lines=self._file_lines,
        )
        self.display.forget_choices()

    def _file_lines(self, file: str, first: int, last: int) -> list[str]:
        path = self.root / file
        # A plan may come from anybody, and name any file of this machine.
        if not is_in_repository(path, self.root):
            return []
        try:
            beginning = read_beginning(path, LONGEST_SOURCE)
        except OSError:
            return []
        return beginning.decode(errors="replace").splitlines()[first - 1 : last]

    # What else is known of it

    async def _examine(self, opening: Opening, plan: JobPlan) -> None:
        """Find out findings and drift. What the first filter needs comes before them, because
        filtering is what users do first.
        """
        if self.scene is not None:
            await asyncio.to_thread(self.scene.tree.search_ready)
        examined = await asyncio.to_thread(examine, opening, plan)
        # The interface may have ended meanwhile.
        if self.display.is_there:
            self._show_examined(plan, examined)

    def _examine_again(self) -> None:
        self._work = self.display.start(self._examine_open)

    async def _examine_open(self) -> None:
        if self.opening is not None and self.scene is not None:
            self._say_busy("looking for findings, and for drift from the snapshot")
            await self._examine(self.opening, self.scene.plan)
            self._say_busy("")
            self._count_if_wanted()

    def _show_examined(self, plan: JobPlan, examined: Examined) -> None:
        # Its memory may have been counted meanwhile: what is found then is shown instead.
        if self.scene is None or self.scene.plan is not plan:
            return
        self.scene = replace(
            self.scene, findings=examined.findings, drift=examined.drift, snapshot_note=examined.snapshot_note
        )
        self._mark(self.scene.tree)
        self.display.refresh_all(path=self.display.chosen_path)

    def _mark(self, tree: TreeModel) -> None:
        """Mark the modules in `tree` that findings, drift and errors are about."""
        scene = self.scene
        if scene is not None:
            found = [finding for finding in scene.findings if finding.where]
            tree.mark(
                [finding.where for finding in found if finding.where],
                [change.where for change in scene.drift.lines] if scene.drift else [],
                [finding.where for finding in found if finding.where and finding.severity is Severity.ERROR],
            )

    # Its memory

    @property
    def is_counting(self) -> bool:
        """Whether the memory of the ranks is being counted."""
        return self._counting is not None and not self._counting.is_finished

    def count_memory(self) -> None:
        """Count the peak memory of each rank of what is open, while the interface stays usable."""
        if self.scene is None:
            self.display.complain("There is no plan yet whose memory could be counted.")
        elif has_costs(self.scene.plan):
            self.display.tell("The memory of this plan is counted: it stands under Ranks.")
        elif self.request is None:
            self.display.complain("A snapshot does not say which model it is of: open the job to count its memory.")
        elif not self.is_counting:
            self.counts_memory = True
            self._count_if_wanted()

    def _count_if_wanted(self) -> None:
        scene, request = self.scene, self.request
        if self.counts_memory and scene is not None and request is not None and not has_costs(scene.plan):
            self._counting = self.display.start(partial(self._count, request, scene.plan), group="memory")

    async def _count(self, request: PlanRequest, plan: JobPlan) -> None:
        self._note_memory(plan, "The peak memory is being counted …")
        self._say_busy("counting the peak memory of each rank   (esc stops it)", work="counting")
        try:
            await self._show_counted(plan, await self.with_memory(request, plan))
        except (CloraError, OSError) as error:
            self._note_memory(plan, f"The peak memory was not counted: {error}")
            if self.display.is_there:
                self.display.complain(str(error))
        except asyncio.CancelledError:
            self._note_memory(plan, "The peak memory was not counted: it was stopped. Press m to count it.")
            raise
        finally:
            self._say_busy("", work="counting")

    def _note_memory(self, plan: JobPlan, note: str) -> None:
        if self.scene is not None and self.scene.plan is plan and self.display.is_there:
            self.scene = replace(self.scene, memory_note=note)
            self.display.refresh_all(path=self.display.chosen_path)

    async def _show_counted(self, plan: JobPlan, counted: JobPlan) -> None:
        """Show the memory of `plan`, unless something else was opened meanwhile, and judge it."""
        opening = self.opening
        if self.scene is None or opening is None or self.scene.plan is not plan or not self.display.is_there:
            return
        self.scene = replace(self.scene, plan=counted, memory_note="")
        self.display.refresh_all(path=self.display.chosen_path)
        await self._examine(opening, counted)

    async def with_memory(self, request: PlanRequest, plan: JobPlan) -> JobPlan:
        """Return the plan of `request` with its memory, which is counted in a child process if that
        was not done before.

        Raises:
            CloraError: it cannot be counted.
        """
        if has_costs(plan) and plan.workload == request.workload:
            return plan
        key = msgspec.json.encode(request)
        # The form may ask for costs that are being counted for the main screen.
        async with self._one_count_at_a_time:
            if key not in self._costs:
                data = await self.processes.output(plan_words(request, with_memory=True))
                costs = await asyncio.to_thread(decode_costs, data)
                if len(self._costs) >= MOST_COSTS:
                    self._costs.pop(next(iter(self._costs)))
                self._costs[key] = costs
        return with_costs(plan, self._costs[key])

    # What a user does with it

    def look_from(self, rank: int | None) -> None:
        """Take the tree of a rank into the scene, or the tree of all ranks for None."""
        scene = self.scene
        if scene is None:
            return
        number = None if rank is None else class_of(scene.plan, rank)
        before = None if scene.rank is None else class_of(scene.plan, scene.rank)
        tree = scene.tree
        # Ranks of a class have the same modules, so the tree stays as the user has opened it.
        if number != before:
            if number not in self._trees:
                self._trees[number] = model_nodes(scene.plan, None if number is None else [number])
            tree = TreeModel(self._trees[number])
            self._mark(tree)
            tree.copy_state(scene.tree)
        self.scene = replace(scene, tree=tree, rank=rank)

    async def plan(self, request: PlanRequest) -> JobPlan:
        """Plan in a child process.

        Raises:
            CloraError: it cannot be planned.
        """
        from clora_inspect.job.plan import decode

        data = await self.processes.output(plan_words(request))
        return await asyncio.to_thread(decode, data, "the plan")

    def accept(self, chosen: Callable[[str], bool] | None = None) -> None:
        """Make the plan the job's snapshot. `chosen` tells the places of the adapters that are
        accepted; None accepts all.
        """
        if self.opening is None or self.scene is None:
            return
        try:
            path = accept(self.opening, self.scene.plan, chosen)
        except (CloraError, OSError) as error:
            self.display.complain(str(error))
            return
        self.display.tell(f"Accepted: {path.name} is the plan as it stands{' here' if chosen else ''}.")
        self._examine_again()


def _read(path: Path) -> tuple[JobPlan, ModelNodes, TreeModel]:
    """Read a saved plan or a snapshot, and build its module tree.

    Raises:
        CloraError: the file is neither a plan nor a snapshot.
        OSError: it cannot be read.
    """
    with collector_paused():
        plan = read_plan(path)
        return plan, *_tree_of(plan)


def _tree_of(plan: JobPlan) -> tuple[ModelNodes, TreeModel]:
    with collector_paused():
        nodes = model_nodes(plan)
        tree = TreeModel(nodes)
        # Millions of objects that stay as long as the interface: after this the garbage collector
        # does not look at them, not even when it runs again.
        gc.freeze()
        return nodes, tree
