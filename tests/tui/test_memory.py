"""The peak memory of ranks in the interface: the map, the account, what-if, and how it is counted
beside the interface.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from driving import WIDE, WIDTHS, opened, press, told, until
from golden_text import SCREENSHOTS, assert_golden, screen_text
from inspected_plans import STAGES
from msgspec.structs import replace
from test_plain_terminals import COLOUR, drawn
from textual.widgets import Input

from clora.errors import CloraError
from clora_inspect.cli import main
from clora_inspect.config.jobs import ConfiguredJob
from clora_inspect.formats.quantities import size
from clora_inspect.job.plan import encode
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.workload import GIB, Workload
from clora_inspect.tui.job.child import ChildProcesses
from clora_inspect.tui.job.command_lines import environment, plan_words
from clora_inspect.tui.job.costs import decode_costs, has_costs, with_costs, without_costs
from clora_inspect.tui.job.opening import Opening
from clora_inspect.tui.job.plan_request import request_of
from clora_inspect.tui.panes.lines import plain, width_of
from clora_inspect.tui.panes.memory_diff import memory_diff_lines
from clora_inspect.tui.panes.ranks import ranks_lines
from clora_inspect.tui.panes.scene import Scene
from clora_inspect.tui.screens.what_if import WhatIfScreen
from clora_inspect.tui.tree.build import model_nodes
from clora_inspect.tui.tree.rows import TreeModel
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.tui.widgets.tick_box import TickBox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from textual.pilot import Pilot

    from clora_inspect.job.job import Job
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.tui.app import InspectorApp

GPU = 16.0
"""GiB that some stages of the job fit into, and others do not."""


def memory_of(plan: JobPlan, stage: int) -> RankMemory:
    memory = plan.rank_classes[stage].memory
    assert isinstance(memory, RankMemory)
    return memory


def peaks(plan: JobPlan) -> list[str]:
    return [size(memory_of(plan, stage).peak_bytes) for stage in range(len(plan.rank_classes))]


def scene_of(plan: JobPlan, *, rank: int | None = None, gpu: float | None = None, note: str = "") -> Scene:
    tree = TreeModel(model_nodes(plan))
    return Scene(name="stages", layout_name="", plan=plan, tree=tree, rank=rank, gpu_memory_gib=gpu, memory_note=note)


def doubled(plan: JobPlan) -> JobPlan:
    """Return the plan with twice the activations, as rows twice as long would have."""
    classes = []
    for ranks in plan.rank_classes:
        memory = ranks.memory
        assert isinstance(memory, RankMemory)
        more = {"peak_bytes": memory.peak_bytes + memory.activations_bytes}
        twice = replace(memory, activations_bytes=2 * memory.activations_bytes, **more)
        classes.append(replace(ranks, memory=twice))
    return replace(plan, workload=Workload(seq_length=8192), rank_classes=tuple(classes))


# The panes


def test_cells_are_shaded_by_the_peak_of_their_stage(counted: JobPlan) -> None:
    largest, *_, least = (memory_of(counted, stage).peak_bytes / GIB for stage in range(4))
    cases = [
        # Without a GPU to compare with, the fullest rank is darkest.
        (None, "████████", "▓▓▓▓▓▓▓▓" if least / largest > 0.5 else "▒▒▒▒▒▒▒▒"),
        (largest + 0.1, "████████", None),
        (4 * largest + 0.1, "░░░░░░░░", "░░░░░░░░"),
        ((largest + least) / 2, "✖✖✖✖✖✖✖✖", None),
    ]
    for gpu, first, last in cases:
        rows = [row for row in plain(ranks_lines(scene_of(counted, gpu=gpu), 100)).splitlines() if row[:2] == "pp"]
        assert first in rows[0], (gpu, rows)
        assert last is None or last in rows[-1], (gpu, rows)
        # What the shade says stands there in words as well.
        for row, peak in zip(rows, peaks(counted), strict=True):
            assert peak in row
            assert gpu is None or " %" in row
    over = plain(ranks_lines(scene_of(counted, gpu=least / 2), 100))
    assert f"more than the {size(least / 2 * GIB)} of a GPU" in over


def test_the_detail_of_a_rank_adds_up_to_its_peak(counted: JobPlan) -> None:
    memory = memory_of(counted, 1)
    text = plain(ranks_lines(scene_of(counted, rank=9, gpu=GPU), 100))
    for part in ("weights", "gradients", "optimizer", "activations", "transient", "buffers", "allowance"):
        (row,) = [row for row in text.splitlines() if row.startswith(f"{part} ")]
        assert size(getattr(memory, f"{part}_bytes")) in row
    assert all(size(line.bytes) in text for line in memory.lines if line.bytes)
    assert f"= peak {size(memory.peak_bytes)}" in " ".join(text.splitlines()[-1].split())
    assert "does not fit" not in text
    assert "does not fit" in plain(ranks_lines(scene_of(counted, rank=9, gpu=1.0), 100))


@pytest.mark.parametrize("width", [40, 60, 84])
def test_a_wide_cluster_leaves_room_for_the_peak_of_each_stage(counted: JobPlan, width: int) -> None:
    members = [((1024 * stage, 1024 * stage + 1023),) for stage in range(4)]
    classes = [replace(each, members=where) for each, where in zip(counted.rank_classes, members, strict=True)]
    plan = replace(counted, layout=replace(counted.layout, world_size=4096), rank_classes=tuple(classes))
    rows = [row for row in plain(ranks_lines(scene_of(plan, gpu=GPU), width)).splitlines() if row[:2] == "pp"]
    assert all(peak in row for row, peak in zip(rows, peaks(counted), strict=True)), rows


@pytest.mark.parametrize("width", [24, 40, 76, 100, 160])
def test_no_line_about_memory_is_too_wide(counted: JobPlan, width: int) -> None:
    lines = [
        *ranks_lines(scene_of(counted, rank=3, gpu=GPU), width),
        *memory_diff_lines(counted, doubled(counted), GPU, width),
    ]
    assert max(map(width_of, lines)) <= max(width, 76)


def test_a_stage_that_trains_nothing_is_told_beside_its_memory(counted: JobPlan) -> None:
    idle = replace(counted.rank_classes[2], placements=(), trainable_params=0)
    plan = replace(counted, rank_classes=(*counted.rank_classes[:2], idle, counted.rank_classes[3]))
    assert "no trainable parameters: pp2 train nothing" in plain(ranks_lines(scene_of(plan), 84))


def test_without_memory_the_map_says_how_to_count_it(counted: JobPlan) -> None:
    plan = without_costs(counted)
    assert "shaded by trainable parameters" in plain(ranks_lines(scene_of(plan), 84))
    assert "Press m to count the peak memory" in plain(ranks_lines(scene_of(plan), 84))
    assert "It rains." in plain(ranks_lines(scene_of(plan, note="It rains."), 84))
    # A plan that was read from a snapshot cannot be counted.
    assert "Press m" not in plain(ranks_lines(scene_of(replace(plan, model_source="")), 84))


def test_the_difference_of_two_accounts(counted: JobPlan) -> None:
    text = plain(memory_diff_lines(counted, doubled(counted), GPU, 84))
    assert_golden("panes/memory-diff.txt", text + "\n")
    activations = max((memory_of(counted, stage) for stage in range(4)), key=lambda each: each.peak_bytes)
    assert f"+{size(activations.activations_bytes)}" in text
    fewer = replace(counted, rank_classes=counted.rank_classes[:2])
    assert "peak, pp1" in plain(memory_diff_lines(counted, fewer, None, 84))
    assert memory_diff_lines(without_costs(counted), counted, None, 84) == []


def test_costs_are_those_of_the_plan_they_were_counted_for(counted: JobPlan) -> None:
    costs, bare = decode_costs(encode(counted)), without_costs(counted)
    assert not has_costs(bare)
    assert with_costs(bare, costs) == counted
    other = replace(bare, rank_classes=(replace(bare.rank_classes[0], base_params=1), *bare.rank_classes[1:]))
    with pytest.raises(CloraError, match="The model is another now"):
        with_costs(other, costs)
    with pytest.raises(CloraError, match="no memory that can be read"):
        decode_costs(encode(bare))


WORKLOADS = {
    "default": Workload(),
    "all": Workload(
        seq_length=8192,
        micro_batch_size=2,
        num_microbatches=7,
        imbalance=1.5,
        recompute="selective:mlp,layernorm",
        use_distributed_optimizer=False,
        memory_allowance_gib=0.5,
    ),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_command_line_says_the_same_workload(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[tuple[Job, Workload]] = []

    def keep(job: Job, workload: Workload) -> None:
        heard.append((job, workload))
        raise CloraError("enough")

    monkeypatch.setattr("clora_inspect.pipeline.plan_job", keep)
    monkeypatch.chdir(tmp_path)
    # Options in the environment are the interface's, which has used them already.
    for variable, value in {"SEQ_LENGTH": "64", "RECOMPUTE": "none", "MEMORY": "1"}.items():
        monkeypatch.setenv(f"CLORA_INSPECT_{variable}", value)
    for variable in os.environ.keys() - environment().keys():
        monkeypatch.delenv(variable)
    request = request_of(STAGES, str(tmp_path), WORKLOADS[name])
    main(plan_words(request, with_memory=True))
    main(plan_words(request))
    (_, counting), (plain_job, planning) = heard
    assert counting == WORKLOADS[name]
    assert (plain_job, planning) == (STAGES, None)


# Counting, with a child process that answers when it may


CHILD = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
for line in sys.stdin:
    words = json.loads(line.strip() or "[]")
    if not words:
        continue
    with (folder / "asked").open("a") as asked:
        asked.write(json.dumps(words) + "\\n")
    counts = "--memory" in words
    while counts and not (folder / "go").exists():
        time.sleep(0.01)
    status = 0
    if counts and (folder / "refused").exists():
        sys.stderr.write("error: " + (folder / "refused").read_text())
        sys.stderr.flush()
        status = 2
    elif "workload.seq_length=8192" in words:
        sys.stdout.write((folder / "longer.json").read_text())
    else:
        sys.stdout.write((folder / ("counted.json" if counts else "plan.json")).read_text())
    sys.stdout.write("\\0%d\\n" % status)
    sys.stdout.flush()
"""


class Counter:
    """The answers of the child process, and the questions that it got."""

    def __init__(self, folder: Path, counted: JobPlan) -> None:
        self.folder = folder
        (folder / "counted.json").write_bytes(encode(counted))
        (folder / "longer.json").write_bytes(encode(doubled(counted)))
        (folder / "plan.json").write_bytes(encode(without_costs(counted)))

    @property
    def processes(self) -> ChildProcesses:
        return ChildProcesses((sys.executable, "-c", CHILD, str(self.folder)))

    def go(self) -> None:
        (self.folder / "go").touch()

    def refuse(self, words: str) -> None:
        (self.folder / "refused").write_text(words)
        self.go()

    @property
    def counts(self) -> list[list[str]]:
        """The command lines that count memory."""
        path = self.folder / "asked"
        asked = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [words for words in asked if "--memory" in words]


@pytest.fixture
def counter(tmp_path: Path, counted: JobPlan) -> Counter:
    return Counter(tmp_path, counted)


@asynccontextmanager
async def started(
    counter: Counter, size: tuple[int, int] = WIDE, gpu: float | None = None, **options: Any
) -> AsyncIterator[tuple[InspectorApp, Pilot[None]]]:
    """Yield the interface as soon as the saved plan is shown, without waiting for its memory."""
    from clora_inspect.tui.app import InspectorApp

    job = ConfiguredJob(name="stages", layout_name="train", job=STAGES, gpu_memory_gib=gpu)
    opening = Opening(name="stages", layout_name="train", path=counter.folder / "plan.json", job=job)
    app = InspectorApp(opening, processes=counter.processes, **options)
    app.animation_level = "none"
    async with app.run_test(size=size, notifications=True) as pilot:
        # The plan is read before the first frame, and examined after it.
        await pilot.pause()
        await until(pilot, lambda: app.scene is not None and not app.session.is_opening)
        yield app, pilot


def ranks(app: InspectorApp) -> str:
    return app.main.details.pane.text


def test_memory_is_counted_beside_the_interface(counter: Counter, counted: JobPlan) -> None:
    async def case() -> None:
        async with started(counter, gpu=10.0) as (app, pilot):
            assert "CL805" not in app.main.findings.text
            await pilot.press("m")
            await until(pilot, lambda: counter.counts)
            # It is said where it will stand, and nothing waits for it.
            assert "The peak memory is being counted" in ranks(app)
            assert "counting the peak memory of each rank" in screen_text(app)
            await pilot.press("m", "slash", *"linear_fc2", "enter")
            assert app.main.model.row is not None
            assert app.main.model.row.label == "linear_fc2"
            assert app.session.is_counting
            counter.go()
            await press(pilot)
            assert app.scene is not None
            assert has_costs(app.scene.plan)
            assert all(peak in ranks(app) for peak in peaks(counted))
            assert "being counted" not in screen_text(app)
            # The cursor is where it was, and what is found now is judged by the peak.
            assert app.main.model.row.label == "linear_fc2"
            assert "CL805" in app.main.findings.text
            await press(pilot, "m")
            assert "counted: it stands under Ranks" in told(app)[-1]
            assert len(counter.counts) == 1

    asyncio.run(case())


def test_with_the_option_it_is_counted_at_once_and_the_plan_comes_first(counter: Counter, counted: JobPlan) -> None:
    async def case() -> None:
        async with started(counter, counts_memory=True) as (app, pilot):
            await until(pilot, lambda: counter.counts)
            assert "320 adapters" in screen_text(app)
            counter.go()
            await press(pilot, "2")
            assert peaks(counted)[0] in ranks(app)

    asyncio.run(case())


def test_counting_is_stopped_and_leaving_does_not_wait_for_it(counter: Counter) -> None:
    async def case() -> None:
        async with started(counter) as (app, pilot):
            await pilot.press("m")
            await until(pilot, lambda: counter.counts)
            await pilot.press("escape")
            await until(pilot, lambda: not app.session.is_counting)
            assert "it was stopped. Press m to count it" in " ".join(ranks(app).split())
            assert "counting" not in screen_text(app)
            await pilot.press("m")
            await until(pilot, lambda: app.session.is_counting)
            await pilot.press("q")
            await until(pilot, lambda: not app.is_running)

    asyncio.run(asyncio.wait_for(case(), 120))


def test_what_cannot_be_counted_is_told_in_words(counter: Counter) -> None:
    counter.refuse("The memory of stages cannot be counted: its forward reads values.")

    async def case() -> None:
        async with started(counter) as (app, pilot):
            await press(pilot, "m")
            assert any("its forward reads values" in words for words in told(app))
            assert "not counted: The memory of stages cannot be counted" in " ".join(ranks(app).split())
            assert "shaded by trainable parameters" in ranks(app)

    asyncio.run(case())


def test_the_memory_of_another_job_is_not_shown(counter: Counter, plan_files: dict[str, Path]) -> None:
    async def case() -> None:
        async with started(counter) as (app, pilot):
            await pilot.press("m")
            await until(pilot, lambda: counter.counts)
            app.session.counts_memory = False
            app.session.open_named(str(plan_files["typo"]))
            counter.go()
            await press(pilot)
            assert app.scene is not None
            assert app.scene.name == "llama3-8b"
            assert not has_costs(app.scene.plan)
            assert "Press m to count" in ranks(app)

    asyncio.run(case())


def test_what_if_shows_the_change_of_the_peak_and_counts_no_plan_twice(counter: Counter, counted: JobPlan) -> None:
    counter.go()

    async def case() -> None:
        async with started(counter, gpu=GPU) as (app, pilot):
            await press(pilot, "w")
            screen = app.screen
            assert isinstance(screen, WhatIfScreen)

            async def shown() -> str:
                await pilot.pause(0.5)
                await press(pilot)
                return screen.query_one("#text", TextPane).text

            assert not counter.counts
            # Whoever changes the workload wants to see what it costs.
            screen.query_one("#seq_length", Input).value = "8192"
            text = await shown()
            assert f"peak, fullest rank {peaks(counted)[0]}" in " ".join(text.split())
            assert "No adapter changes." in text
            assert f"+{size(memory_of(counted, 0).activations_bytes)}" in text
            assert "4,096 tokens; what-if" in text
            lengths = [word for words in counter.counts for word in words if "seq_length" in word]
            assert lengths == ["workload.seq_length=4096", "workload.seq_length=8192"]
            screen.query_one("#recompute", Input).value = "half"
            assert "recompute = half does not say what is recomputed: write" in await shown()
            screen.query_one("#recompute", Input).value = ""
            screen.query_one("#seq_length", Input).value = "4096"
            screen.query_one("#counts_memory", TickBox).on = True
            text = await shown()
            assert "same" in text
            assert "Nothing changes." in text
            screen.query_one("#seq_length", Input).value = "8192"
            await shown()
            assert len(counter.counts) == 2
            await press(pilot, "ctrl+t")
            assert "workload = { seq_length = 8192 }" in app.clipboard
            await press(pilot, "ctrl+g", "2")
            assert app.screen is app.main
            assert "8,192 tokens" in screen_text(app) or peaks(doubled(counted))[0] in ranks(app)
            assert len(counter.counts) == 2

    asyncio.run(case())


def test_what_if_says_why_no_memory_is_there(counter: Counter) -> None:
    counter.refuse("seq_length = 4097: it is a multiple of 8.")

    async def case() -> None:
        async with started(counter) as (app, pilot):
            await press(pilot, "w")
            app.screen.query_one("#seq_length", Input).value = "4097"
            await pilot.pause(0.5)
            await press(pilot)
            text = app.screen.query_one("#text", TextPane).text
            assert "it is a multiple of 8" in text
            assert "adapters" in text

    asyncio.run(case())


@pytest.mark.parametrize("size", WIDTHS, ids=WIDTHS.values())
def test_the_screen_of_memory(counter: Counter, counted: JobPlan, size: tuple[int, int]) -> None:
    counter.go()

    async def case() -> tuple[str, str]:
        async with started(counter, size, gpu=11.0) as (app, pilot):
            await press(pilot, "right_square_bracket", "m")
            return screen_text(app), app.export_screenshot()

    text, svg = asyncio.run(case())
    assert peaks(counted)[0] in text
    assert_golden(f"screens/{WIDTHS[size]}/memory.txt", text)
    if size == WIDE:
        assert_golden("memory.svg", svg, folder=SCREENSHOTS)


def test_memory_is_shown_in_ascii_and_without_colours(counter: Counter, counted: JobPlan) -> None:
    counter.go()

    async def case() -> None:
        async with started(counter, gpu=11.0, ascii_only=True, no_color=True) as (app, pilot):
            await press(pilot, "m", "right_square_bracket")
            shown = screen_text(app)
            assert shown.isascii()
            assert f"@XXXXXXX  {peaks(counted)[0]} 11" in shown
            assert COLOUR.search(drawn(app)) is None

    asyncio.run(case())


def test_the_memory_of_a_saved_plan_is_there_at_once(counted: JobPlan, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    saved.write_bytes(encode(counted))

    async def case() -> None:
        async with opened(saved) as (app, pilot):
            await press(pilot, "2")
            assert all(peak in ranks(app) for peak in peaks(counted))
            assert not app.session.processes.is_warm

    asyncio.run(case())
