"""The real interface, driven without a terminal: what every key does, and that mistakes leave it
usable.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from driving import NARROW, WIDE, is_running, opened, press, told, until
from golden_text import screen_text
from textual.color import Color
from textual.events import Key
from textual.widgets import Input, OptionList, TextArea

from clora_inspect.config.load import load
from clora_inspect.tui.app import InspectorApp
from clora_inspect.tui.job.child import ChildProcesses
from clora_inspect.tui.job.opening import opening_of
from clora_inspect.tui.screens.choose import ChooseScreen
from clora_inspect.tui.screens.details import DetailsScreen
from clora_inspect.tui.screens.main import MainScreen
from clora_inspect.tui.screens.text import DiffScreen, FindingScreen, HelpScreen
from clora_inspect.tui.screens.verify import VerifyScreen
from clora_inspect.tui.screens.what_if import WhatIfScreen
from clora_inspect.tui.session import Session
from clora_inspect.tui.tree.rows import TreeFilter
from clora_inspect.tui.widgets.styles import contrast, readable, tone_style
from clora_inspect.tui.widgets.text_pane import TextPane

if TYPE_CHECKING:
    from textual.screen import Screen

PlanFiles = dict[str, Path]


def run(case: object) -> None:
    asyncio.run(case)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def details(app: InspectorApp) -> str:
    return app.main.details.pane.text


def test_the_first_screen_answers_what_is_adapted_what_is_not_and_what_is_wrong(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, _):
            shown = screen_text(app)
            for words in (
                "llama3-8b",
                "tp4 pp2 sp",
                "1 error",
                "192 adapters",
                "layers {0..31}",
                "up adapted, not gate",
                "CL101",
                "q k v adapted",
                "all 8 ranks",
            ):
                assert words in shown
            assert "192 of 224 decoder linears" in details(app)

    run(case())


def test_a_saved_plan_stands_on_the_first_frame(plan_files: PlanFiles) -> None:
    async def case() -> None:
        app = InspectorApp(opening_of(str(plan_files["typo"]), None))
        frames: list[str] = []
        draw = app._display

        def display(screen: Screen[None], renderable: Any) -> None:
            draw(screen, renderable)
            if renderable is not None:
                frames.append(screen_text(app))

        app._display = display  # type: ignore[assignment, method-assign]
        async with app.run_test(size=WIDE):
            assert "layers {0..31}" in frames[0]
            assert "192 adapters" in frames[0]

    run(case())


def test_find_a_module_and_read_why_it_is_wrapped(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "slash", "text:linear_fc1", "enter")
            assert app.main.model.row is not None
            assert app.main.model.row.label == "linear_fc1"
            assert 'chosen by target_modules[5] "linear_fc1_up"' in details(app)
            assert app.scene is not None
            assert app.scene.tree.hits == 96
            await press(pilot, "escape")
            assert not app.scene.tree.is_filtered
            assert app.main.model.row.label == "linear_fc1"

    run(case())


def test_a_broken_pattern_is_told_while_it_is_typed(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "slash", "text:*{0..")
            assert "has a brace that is no range" in screen_text(app)
            await press(pilot, "text:3}*")
            assert app.scene is not None
            assert app.scene.tree.hits > 0

    run(case())


def test_switching_ranks_changes_layers_and_keeps_the_place(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "slash", "text:linear_fc2", "enter", "escape", "right_square_bracket")
            assert app.scene is not None
            assert app.scene.rank == 0
            assert "rank 0 of 8 (pp0 tp0)" in screen_text(app)
            assert app.main.model.row is not None
            assert app.main.model.row.path == "decoder.layers.{0..15}.mlp.linear_fc2"
            await press(pilot, "right_square_bracket")
            assert app.main.model.row is not None
            assert app.main.model.row.path == "decoder.layers.{16..31}.mlp.linear_fc2"
            await press(pilot, "right_square_bracket")
            assert app.scene.rank is None
            await press(pilot, "left_square_bracket", "0")
            assert app.scene.rank is None
            assert app.main.model.row is not None
            assert app.main.model.row.path == "decoder.layers.{0..31}.mlp.linear_fc2"

    run(case())


def test_choosing_a_rank_on_the_map_by_key_and_by_mouse(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "2", "tab", "right", "right", "enter")
            assert app.scene is not None
            assert app.scene.rank == 1
            pane = app.main.details.pane
            line = next(number for number, each in enumerate(pane.text.splitlines()) if each.startswith("pp1"))
            await pilot.click(pane, offset=(6 + 2, line))
            await press(pilot)
            assert app.scene.rank == 6
            assert "rank 6" in pane.text

    run(case())


def test_a_finding_leads_to_its_place_and_is_explained(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "n")
            assert app.main.model.row is not None
            assert app.main.model.row.label == "linear_fc1"
            await press(pilot, "e")
            assert isinstance(app.screen, FindingScreen)
            shown = app.screen.query_one("#text", TextPane).text
            assert "linear_fc1_gate (32)" in shown
            assert "unmatched" in shown
            await press(pilot, "escape", "N")
            assert app.screen is app.main
            assert app.main.finding == len(app.scene.findings) - 1 if app.scene else False

    run(case())


def test_a_click_on_a_finding_goes_to_it(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await pilot.click("#findings", offset=(10, 1))
            await press(pilot)
            assert app.main.finding == 0
            assert app.main.model.row is not None

    run(case())


def test_only_cycles_through_what_there_is(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            seen = []
            for _ in range(4):
                await press(pilot, "f")
                assert app.scene is not None
                seen.append(app.scene.tree.only)
            assert seen == [TreeFilter.ADAPTED, TreeFilter.MISSED, TreeFilter.FINDINGS, TreeFilter.ALL]

    run(case())


def test_tree_keys_and_mouse(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["mixtral"]) as (app, pilot):
            model = app.main.model
            await press(pilot, "j", "j", "j", "j")
            assert model.row is not None
            assert model.row.label.startswith("layers {")
            await press(pilot, "h")
            assert not model.row.is_open
            await press(pilot, "l", "l")
            assert model.row.label == "self_attention"
            await press(pilot, "left", "left", "left", "left")
            assert model.row.label == "decoder"
            await press(pilot, "right", "down", "u")
            assert any(row.label == "layers 7" for row in app.scene.tree.rows()) if app.scene else False
            await press(pilot, "u", "end")
            assert model.row is not None
            assert model.row.label == "output_layer"
            await press(pilot, "home", "pagedown", "pageup")
            assert model.row is None
            await pilot.click(model, offset=(2, 2))
            await press(pilot)
            assert model.cursor == 1
            await press(pilot, "p")
            assert app.scene is not None
            assert app.scene.tree.with_empty

    run(case())


def test_tabs_by_key_and_by_mouse(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            for key, tab, words in (
                ("3", "graph", "holds"),
                ("4", "snapshot", "No snapshot"),
                ("5", "source", "hidden_size"),
                ("2", "ranks", "8 ranks"),
                ("1", "placement", "trainable params"),
            ):
                await press(pilot, key)
                assert app.main.details.tab == tab
                assert words in details(app)
            await pilot.click("#tabs", offset=(18, 0))
            await press(pilot)
            assert app.main.details.tab == "ranks"

    run(case())


def test_links_of_the_graph_are_followed_with_the_keyboard(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "slash", "text:linear_fc2", "enter", "escape", "3", "tab", "down", "enter")
            assert app.main.model.row is not None
            assert app.main.model.row.path == "decoder.layers.{0..31}.mlp"

    run(case())


def test_panes_are_walked_with_tab_and_jumped_to_with_letters(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            seen = []
            for _ in range(3):
                await press(pilot, "tab")
                seen.append(app.focused.id if app.focused else None)
            assert seen == ["details-text", "findings", "tree"]
            await press(pilot, "shift+tab")
            assert app.focused is not None
            assert app.focused.id == "findings"
            await press(pilot, "ctrl+o", "f")
            assert app.focused.id == "filter"
            await press(pilot, "escape", "ctrl+o", "h")
            assert app.main.details.tab == "ranks"
            await press(pilot, "ctrl+o", "7")
            assert app.screen is app.main

    run(case())


def test_help_names_every_action_and_the_palette_runs_them(plan_files: PlanFiles) -> None:
    from clora_inspect.tui.widgets.actions import ACTIONS

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "question_mark")
            assert isinstance(app.screen, HelpScreen)
            text = " ".join(app.screen.query_one("#text", TextPane).text.split())
            assert [action.id for action in ACTIONS if action.help not in text] == []
            await press(pilot, "escape", "ctrl+p")
            await until(pilot, lambda: "Theme" in screen_text(app))
            # Textual's own commands that the table has too are not offered twice.
            assert not any(words in screen_text(app) for words in ("Show help for", "as soon as possible"))
            await press(pilot, "text:what-if")
            await until(pilot, lambda: "What-if  (w)" in screen_text(app))
            await press(pilot, "enter")
            await until(pilot, lambda: isinstance(app.screen, WhatIfScreen))

    run(case())


def test_ctrl_c_says_the_key_of_the_footer(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "ctrl+c")
            assert told(app)[-1].startswith("To leave press q")

    run(case())


def test_copying_takes_the_text_of_the_pane(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "y")
            assert "linear_qkv" in app.clipboard
            assert "●" in app.clipboard
            await press(pilot, "n", "c")
            assert app.clipboard == "decoder.layers.{0..31}.mlp.linear_fc1"
            await press(pilot, "tab", "y")
            assert "chosen by" in app.clipboard

    run(case())


def test_a_narrow_terminal_has_the_details_on_a_screen_of_their_own(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"], NARROW) as (app, pilot):
            assert not app.main.details.region.area
            await press(pilot, "n", "enter")
            assert isinstance(app.screen, DetailsScreen)
            assert "chosen by" in app.screen.details.pane.text
            await press(pilot, "2", "right_square_bracket")
            assert app.scene is not None
            assert app.scene.rank == 0
            assert "rank 0" in app.screen.details.pane.text
            # A rank of the map is chosen here; the screen stays, and the main one follows.
            await press(pilot, "right", "right", "enter")
            assert isinstance(app.screen, DetailsScreen)
            assert app.scene.rank == 1
            assert "rank 1" in app.screen.details.pane.text
            await pilot.resize_terminal(*WIDE)
            await press(pilot)
            assert app.screen is app.main
            assert app.main.details.tab == "ranks"
            await pilot.resize_terminal(50, 12)
            await press(pilot)
            assert not app.main.findings.region.area
            assert "1 error" in screen_text(app)
            await press(pilot, "enter", "escape", "q")

    run(case())


@pytest.mark.parametrize("size", [(140, 45), (100, 30), (99, 30), (80, 24), (60, 16), (40, 12), (20, 5), (300, 80)])
def test_any_size_is_survived_and_the_cursor_stays_in_sight(plan_files: PlanFiles, size: tuple[int, int]) -> None:
    async def case() -> None:
        async with opened(plan_files["deepseek"]) as (app, pilot):
            await press(pilot, "end")
            await pilot.resize_terminal(*size)
            await press(pilot)
            model = app.main.model
            if model.size.height:
                assert model.scroll_offset.y <= model.cursor < model.scroll_offset.y + model.size.height
            await press(pilot, "home", "w", "escape", "question_mark", "escape")
            assert app.screen is app.main

    run(case())


def test_a_missing_file_and_a_broken_plan_are_told_and_leave_the_interface_usable(
    tmp_path: Path, plan_files: PlanFiles
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": 1}')

    async def case() -> None:
        async with opened(broken) as (app, pilot):
            assert any("no saved plan" in words for words in told(app))
            assert "press O" in screen_text(app)
            await press(pilot, "w", "v", "d", "n", "e", "f", "1", "y", "a", "right_square_bracket")
            await press(pilot, "O")
            assert isinstance(app.screen, ChooseScreen)
            app.screen.query_one(Input).value = str(plan_files["typo"])
            await press(pilot, "enter")
            assert app.scene is not None
            assert app.scene.name == "llama3-8b"

    run(case())


def test_a_large_plan_is_read_after_a_frame_that_says_so(
    tmp_path: Path, plan_files: PlanFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clora_inspect.tui.session.READ_BEFORE_FIRST_FRAME", 10)
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": 1}')
    frames: list[str] = []

    read_now = Session._read_now

    def watched(session: Session) -> None:
        assert isinstance(session.display, MainScreen)
        frames.append(screen_text(session.display.app))
        read_now(session)

    monkeypatch.setattr(Session, "_read_now", watched)

    async def case(path: Path) -> None:
        async with opened(path) as (app, _):
            if path == broken:
                assert any("no saved plan" in words for words in told(app))
            else:
                assert app.scene is not None
                assert "layers {0..31}" in screen_text(app)
                assert app.scene.findings

    for path in (plan_files["typo"], broken):
        run(case(path))
        assert f"reading {path.name}" in frames[-1]
    assert len(frames) == 2


def test_without_a_job_it_lists_what_can_be_opened() -> None:
    async def case() -> None:
        async with opened(None) as (app, pilot):
            assert isinstance(app.screen, ChooseScreen)
            await press(pilot, "text:llama3-8")
            assert app.screen.query_one(OptionList).option_count == 1
            await press(pilot, "escape")
            assert "press O" in screen_text(app)

    run(case())


def test_what_if_mends_a_typo_and_shows_the_difference_and_writes_nothing(
    plan_files: PlanFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test of the form that plans in a child process; every other one stays short of it."""
    monkeypatch.chdir(tmp_path)

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "w")
            screen = app.screen
            assert isinstance(screen, WhatIfScreen)
            field = screen.query_one("#target_modules", TextArea)
            field.text = field.text.replace("linear_fc1_gat", "linear_fc1_gate")
            await until(pilot, lambda: screen.after)
            await press(pilot)
            shown = screen.query_one("#text", TextPane).text
            assert "192" in shown
            assert "224" in shown
            assert "+ decoder.layers.{0..31}.mlp.linear_fc1[gate]" in shown
            assert "CL101" not in shown
            assert names(tmp_path) == []
            await press(pilot, "ctrl+t")
            assert '"linear_fc1_gate"' in app.clipboard
            await press(pilot, "ctrl+s", "ctrl+s")
            assert names(tmp_path) == ["what-if-2.toml", "what-if.toml"]
            screen.query_one("#dim", Input).value = "7"
            await until(pilot, lambda: screen.error)
            assert "7" in screen.error
            assert "tp" in screen.error
            screen.query_one("#dim", Input).value = "8"
            await until(pilot, lambda: screen.after)
            await press(pilot, "ctrl+g")
            assert app.screen is app.main
            assert app.scene is not None
            assert app.scene.name == "llama3-8b (what-if)"
            assert app.scene.plan.totals.placements == 224
            assert app.scene.plan.lora.dim == 8

    run(case())


def test_a_mistake_in_the_form_is_told_before_anything_is_planned(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "w")
            screen = app.screen
            assert isinstance(screen, WhatIfScreen)
            screen.query_one("#tp", Input).value = "four"
            await until(pilot, lambda: screen.error)
            assert screen.error == "tp = four is not a whole number."
            assert not app.session.processes.is_warm
            await press(pilot, "ctrl+g", "ctrl+t")
            assert any("no new plan" in words for words in told(app))
            await press(pilot, "escape")
            assert app.screen is app.main

    run(case())


CONFIGURATION = """
[lora.main]
dim = 16
alpha = 32
target_modules = ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_gat", "linear_fc1_up", "linear_fc2"]
[jobs.llama3-8b]
model = "llama3-8b"
lora = "main"
layouts = { train = { tp = 4, pp = 2 }, serve = { tp = 8 } }
"""


class TestConfiguredJob:
    """A job of a configuration: places in the file, snapshot, layouts. The plan is the planner's
    process's business, so it is given.
    """

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "clora-inspect.toml").write_text(CONFIGURATION)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_places_snapshot_and_layouts(self, folder: Path) -> None:
        configuration = load(folder, environ={})
        opening = opening_of("llama3-8b", configuration)

        async def case() -> None:
            async with opened(opening, configuration=configuration) as (app, pilot):
                assert "clora-inspect.toml:5" in app.main.findings.text
                await press(pilot, "n", "5", "tab", "y")
                assert "linear_fc1_gat" in app.clipboard
                assert "▶    5" in app.clipboard
                await press(pilot, "shift+tab", "4")
                assert "Press a to accept" in details(app)
                await press(pilot, "a", "enter")
                assert not (folder / "snapshots").exists()
                await press(pilot, "a", "down", "enter")
                assert (folder / "snapshots" / "llama3-8b" / "train.json").is_file()
                assert "Clean" in details(app)
                assert not any(name.endswith(".new") for name in names(folder))
                (folder / "clora-inspect.toml").write_text(CONFIGURATION.replace("linear_fc1_gat", "linear_fc1_gate"))
                changed = load(folder, environ={})
                app.session.open(opening_of("llama3-8b", changed))
                await press(pilot)
                assert "↕ 32 drifted" in screen_text(app)
                await press(pilot, "d")
                assert isinstance(app.screen, DiffScreen)
                assert "+ decoder.layers.{0..31}.mlp.linear_fc1[gate]" in app.screen.query_one("#text", TextPane).text
                await press(pilot, "down", "enter")
                assert app.screen is app.main
                assert app.main.model.row is not None
                assert app.main.model.row.path == "decoder.layers.{0..31}.mlp.linear_fc1[gate]"
                await press(pilot, "f", "f", "f")
                assert app.scene is not None
                assert app.scene.tree.only is TreeFilter.DRIFTED
                await press(pilot, "L", "down", "enter")
                assert app.scene.layout_name == "serve"
                assert app.scene.plan.layout.tp == 8

        run(case())


def test_a_job_whose_child_process_dies_is_told() -> None:
    dying = ChildProcesses((sys.executable, "-c", "import sys; sys.stderr.write('no more memory'); sys.exit(9)"))

    async def case() -> None:
        async with opened(opening_of("llama3-8b", None), processes=dying) as (app, pilot):
            assert any("no more memory" in words for words in told(app))
            await press(pilot, "question_mark", "escape")
            assert app.screen is app.main

    run(case())


def test_what_is_being_planned_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, time\n"
        "def build():\n"
        "    pathlib.Path('new').write_text(str(os.getpid()))\n"
        "    pathlib.Path('new').rename('pid')\n"
        "    time.sleep(600)\n"
    )
    monkeypatch.chdir(tmp_path)

    async def case() -> None:
        app = InspectorApp(opening_of("mine.py:build", None))
        async with app.run_test(size=WIDE) as pilot:
            await until(pilot, (tmp_path / "pid").exists)
            assert "esc stops it" in screen_text(app)
            await pilot.press("escape")
            await press(pilot)
            assert "stopped" in screen_text(app)
            await until(pilot, lambda: not is_running(int((tmp_path / "pid").read_text())))

    run(case())


def test_a_model_of_the_users_that_raises_is_told_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "print('noise on stdout')\ndef build():\n    raise RuntimeError('my own mistake')\n"
    )
    monkeypatch.chdir(tmp_path)

    async def case() -> None:
        async with opened(opening_of("mine.py:build", None)) as (app, _):
            assert any("my own mistake" in words for words in told(app))

    run(case())


PROOFS = r"""
import sys
sys.stdin.readline()
print('{"proof":"zero-b","status":"passed","detail":"bit-identical","tensors":4,"elements":10,"largest_error":0.0}', flush=True)
print('not a proof', flush=True)
print('{"proof":"liveness","code":"CL503","status":"failed","detail":"no gradient","where":"decoder.layers.3.mlp.linear_fc2"}', flush=True)
print('{"proof":"export","status":"skipped","detail":"not asked"}', flush=True)
print('{"ranks": 1, "shrunk": [], "dropped": []}', flush=True)
"""


def test_proofs_are_shown_as_they_are_known_and_lead_to_their_place(plan_files: PlanFiles) -> None:
    async def case() -> None:
        proving = ChildProcesses((sys.executable, "-c", PROOFS))
        async with opened(plan_files["typo"], processes=proving) as (app, pilot):
            await press(pilot, "v", "enter")
            screen = app.screen
            assert isinstance(screen, VerifyScreen)
            await until(pilot, lambda: screen.state == "done")
            shown = screen.query_one("#text", TextPane).text
            assert "1 passed, 1 failed, 1 skipped" in shown
            assert "bit-identical" in shown
            assert "no gradient" in shown
            screen.state, screen.proofs = "", []
            await press(pilot, "r")
            await until(pilot, lambda: screen.state == "done")
            await press(pilot, "down", "enter")
            await until(pilot, lambda: app.screen is app.main)
            assert app.main.model.row is not None
            assert app.main.model.row.path == "decoder.layers.{0..31}.mlp.linear_fc2"

    run(case())


def test_proofs_that_cannot_be_run_are_told(plan_files: PlanFiles) -> None:
    async def case() -> None:
        failing = ChildProcesses((sys.executable, "-c", "import sys; sys.exit('no such thing')"))
        async with opened(plan_files["typo"], processes=failing) as (app, pilot):
            await press(pilot, "v", "enter")
            screen = app.screen
            assert isinstance(screen, VerifyScreen)
            await until(pilot, lambda: screen.state.startswith("ended"))
            shown = screen.query_one("#text", TextPane).text
            assert "exit status 1" in shown
            assert "no such thing" in shown

    run(case())


def test_keys_can_be_changed_and_a_wrong_name_is_told(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"], keymap={"next-finding": "ctrl+n", "nxt": "x"}) as (app, pilot):
            assert any("no action is called 'nxt'" in words for words in told(app))
            await press(pilot, "n")
            assert app.main.finding is None
            await press(pilot, "ctrl+n")
            assert app.main.finding == 0
            assert "^n Next finding" in screen_text(app)

    run(case())


def test_pictures_are_saved_and_never_over_another(
    plan_files: PlanFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def case() -> None:
        async with opened(plan_files["typo"]) as (_, pilot):
            await press(pilot, "s", "s")

    run(case())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clora-inspect-2.svg", "clora-inspect.svg"]


def test_themes_change_and_the_screen_goes_on(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            first = app.theme
            await press(pilot, "T")
            assert app.theme != first
            for theme in app.available_themes:
                app.theme = theme
                await pilot.pause()
                assert "linear_qkv" in screen_text(app)
                # The panes are drawn in the tones of the theme that is there now, and can be read.
                model = app.main.model
                drawn = {
                    segment.style
                    for pane in (model, app.main.details.pane, app.main.header, app.main.query_one("#footer"))
                    for y in range(20)
                    for segment in pane.render_line(y)
                    if segment.style and segment.text.strip()
                }
                assert readable(model.rich_style + tone_style(model, "tone--good")).color in {
                    each.color for each in drawn
                }
                for style in drawn:
                    if style.color and style.bgcolor and style.color.triplet and style.bgcolor.triplet:
                        text, ground = Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)
                        assert contrast(text, ground) >= 4.5, (theme, style)

    run(case())


def test_the_editor_that_is_not_set_is_told(plan_files: PlanFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "o")
            app.main.edit("pyproject.toml:8")
            await press(pilot)
            assert any("Nothing of this is written" in words for words in told(app))
            assert any("Set $EDITOR" in words for words in told(app))

    run(case())


def test_a_saved_plan_opens_without_torch(plan_files: PlanFiles, tmp_path: Path) -> None:
    picture = tmp_path / "main.svg"
    code = f"""
import sys
from clora_inspect.cli import main
code = main(["tui", {str(plan_files["typo"])!r}, "--screenshot", {str(picture)!r}, "--keys", "n,2,3,4,5,d,escape,question_mark,escape,w,escape"])
assert not code, code
print(sorted(name for name in sys.modules if name in ("torch", "megatron", "transformer_engine", "networkx", "jinja2")))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
    assert "llama3-8b" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-model"], 2, "no built-in architecture"),
        (["--size", "huge", "--screenshot", "x.svg"], 2, "columns x rows"),
        ([], 2, "needs a terminal"),
    ],
)
def test_the_command_tells_mistakes(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from clora_inspect.cli import main; raise SystemExit(main())", "tui", *arguments]
    if arguments == ["no-such-model"]:
        command += ["--screenshot", "x.svg"]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=tmp_path, stdin=subprocess.DEVNULL, check=False
    )
    assert ran.returncode == code
    assert message in ran.stderr
    assert ran.stdout == ""


def test_a_screen_that_is_being_left_is_not_left_twice(plan_files: PlanFiles) -> None:
    """Found by the monkey: two keys in one breath ended a screen twice, and that was a crash."""

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            for key in ("question_mark", "w", "d", "O", "ctrl+o"):
                await press(pilot, key)
                screen = app.screen
                assert screen is not app.main
                leave = screen.leave  # type: ignore[attr-defined]
                leave(None)
                leave(None)
                await press(pilot)
                assert app.screen is app.main

    run(case())


def test_growing_wide_under_another_screen_ends_the_details_and_nothing_else(plan_files: PlanFiles) -> None:
    """Found by the monkey: the details ended the palette that stood over them, and could not be
    left any more.
    """

    async def case() -> None:
        async with opened(plan_files["typo"], NARROW) as (app, pilot):
            await press(pilot, "enter", "ctrl+p")
            palette = app.screen
            await pilot.resize_terminal(*WIDE)
            await press(pilot)
            assert app.screen is palette
            await press(pilot, "escape")
            await until(pilot, lambda: app.screen is app.main)

    run(case())


def test_dragging_over_panes_that_go_selects_nothing_and_breaks_nothing(plan_files: PlanFiles) -> None:
    """Found by the monkey: Textual's selection of text held on to panes of a screen that had ended,
    and that was a crash.
    """

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            for keys in ((), ("question_mark",), ("n", "e"), ("w",)):
                await press(pilot, *keys)
                await pilot.mouse_down(offset=(70, 6))
                for offset in ((20, 12), (60, 30), (5, 43)):
                    await pilot.hover(offset=offset)
                assert app.screen.selections == {}
                # The button is still down while the screen ends, the terminal narrows, and another
                # screen comes.
                await press(pilot, "escape")
                await pilot.resize_terminal(*NARROW)
                await press(pilot, "enter")
                await pilot.hover(offset=(50, 8))
                await pilot.resize_terminal(*WIDE)
                await pilot.mouse_up(offset=(90, 8))
                assert app.screen.selections == {}
                while app.screen is not app.main:
                    await press(pilot, "escape")
                assert "linear_qkv" in screen_text(app)

    run(case())


@pytest.mark.parametrize("size", [NARROW, (100, 20), (140, 16)])
def test_a_scroll_bar_covers_no_end_of_a_line(plan_files: PlanFiles, size: tuple[int, int]) -> None:
    """Found by looking at the picture: `no LoRA for`, `not targete` on every terminal that was too
    low for the tree.
    """

    async def case() -> None:
        async with opened(plan_files["mixtral"], size) as (app, pilot):
            assert app.main.model.show_vertical_scrollbar
            shown = screen_text(app)
            for row in app.main.model.text.splitlines()[:6]:
                assert row in shown
            await press(pilot, "question_mark")
            pane = app.screen.query_one("#text", TextPane)
            assert pane.show_vertical_scrollbar
            shown = screen_text(app)
            for row in pane.text.splitlines()[: pane.size.height]:
                assert row in shown

    run(case())


def test_a_question_stands_over_the_screen_that_it_is_about(plan_files: PlanFiles) -> None:
    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            await press(pilot, "a")
            assert isinstance(app.screen, ChooseScreen)
            assert "word_embeddings" in screen_text(app)
            await press(pilot, "escape", "x", "enter")
            assert "word_embeddings" in screen_text(app)

    run(case())


def test_what_is_typed_at_once_after_a_key_goes_where_the_key_leads(plan_files: PlanFiles) -> None:
    """Found in the terminal on a busy machine: of `/linear` the n and the e went to the tree, and
    opened a finding.
    """

    async def case() -> None:
        async with opened(plan_files["typo"]) as (app, pilot):
            # As a terminal sends them when they are typed faster than a frame is drawn.
            for key, character in (("slash", "/"), ("n", "n"), ("e", "e")):
                app.post_message(Key(key, character))
            await press(pilot)
            assert app.screen is app.main
            assert app.main.query_one(Input).value == "ne"
            assert app.main.finding is None

    run(case())
