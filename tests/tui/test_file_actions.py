"""Actions with an effect outside: files that are written, a part of the drift accepted, one proof
run, Python on the clipboard.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from driving import NARROW, opened, press, told, until
from inspected_plans import JOBS
from msgspec.structs import replace
from textual.widgets import Input, OptionList

from clora import CanonicalLoRA
from clora_inspect.config.load import load
from clora_inspect.job.job import Job, lora_fields
from clora_inspect.job.plan import encode as encode_plan
from clora_inspect.job.plan import load as load_plan
from clora_inspect.pipeline import plan_job
from clora_inspect.snapshot.drift import Change
from clora_inspect.snapshot.record import decode, encode, take
from clora_inspect.tui.job.child import ChildProcesses
from clora_inspect.tui.job.opening import Opening, opening_of
from clora_inspect.tui.panes.python_snippet import python_snippet
from clora_inspect.tui.screens.choose import ChooseScreen
from clora_inspect.tui.screens.path import PathScreen
from clora_inspect.tui.screens.verify import VerifyScreen, proof_choices
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.verify.proof_table import PROOF_NAMES

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.record import Snapshot
    from clora_inspect.tui.app import InspectorApp

PlanFiles = dict[str, Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(case: object) -> None:
    asyncio.run(case)  # type: ignore[arg-type]


def offered(app: InspectorApp) -> list[str]:
    options = app.screen.query_one(OptionList)
    return [str(options.get_option_at_index(number).id) for number in range(options.option_count)]


async def take_option(app: InspectorApp, pilot: Pilot[None], name: str) -> None:
    app.screen.query_one(OptionList).highlighted = offered(app).index(name)
    await press(pilot, "enter")


class TestExport:
    def test_the_plan_opens_again(self, plan_files: PlanFiles, plans: dict[str, JobPlan], folder: Path) -> None:
        async def case() -> None:
            async with opened(plan_files["typo"]) as (app, pilot):
                await press(pilot, "x")
                assert isinstance(app.screen, ChooseScreen)
                assert offered(app)[:2] == ["plan", "text"]
                await press(pilot, "enter")
                assert isinstance(app.screen, PathScreen)
                assert app.screen.query_one(Input).value == "llama3-8b-plan.json"
                await press(pilot, "enter")
                assert app.screen is app.main
                await until(pilot, lambda: "Wrote llama3-8b-plan.json." in told(app))

        run(case())
        assert load_plan(folder / "llama3-8b-plan.json") == plans["typo"]
        assert [path.name for path in folder.iterdir()] == ["llama3-8b-plan.json"]

    @pytest.mark.parametrize(
        ("name", "file", "begins"),
        [
            ("graph-dot", "llama3-8b.dot", "digraph"),
            ("graph-mermaid", "llama3-8b.mmd", "flowchart"),
            ("graph-graphml", "llama3-8b.graphml", "<"),
            ("graph-json", "llama3-8b-graph.json", "{"),
            ("findings", "llama3-8b-findings.json", "["),
            ("text", "llama3-8b.txt", "  llama3-8b"),
        ],
    )
    def test_everything_that_is_offered_is_written(
        self, plan_files: PlanFiles, folder: Path, name: str, file: str, begins: str
    ) -> None:
        async def case() -> None:
            async with opened(plan_files["typo"]) as (app, pilot):
                await press(pilot, "x")
                await take_option(app, pilot, name)
                await press(pilot, "enter")
                await until(pilot, lambda: f"Wrote {file}." in told(app))

        run(case())
        assert (folder / file).read_text().startswith(begins)

    @pytest.mark.parametrize(
        ("keys", "first"),
        [(("3",), "graph-dot"), (("tab", "tab"), "findings"), (("n", "e"), "findings"), (("2",), "plan")],
    )
    def test_what_is_looked_at_comes_first(
        self, plan_files: PlanFiles, folder: Path, keys: tuple[str, ...], first: str
    ) -> None:
        async def case() -> None:
            async with opened(plan_files["typo"]) as (app, pilot):
                await press(pilot, *keys, "x")
                assert offered(app)[0] == first
                await press(pilot, "escape")

        run(case())
        assert not any(folder.iterdir())

    def test_a_file_that_is_there_is_written_over_only_when_that_is_said(
        self, plan_files: PlanFiles, folder: Path
    ) -> None:
        mine = folder / "mine.json"
        mine.write_text("mine")

        async def case() -> None:
            async with opened(plan_files["typo"], NARROW) as (app, pilot):
                for answer in (("enter",), ("escape",), ("down", "enter")):
                    assert mine.read_text() == "mine"
                    await press(pilot, "x", "enter")
                    app.screen.query_one(Input).value = "mine.json"
                    await press(pilot, "enter")
                    assert isinstance(app.screen, ChooseScreen)
                    await press(pilot, *answer)
                await until(pilot, lambda: "Wrote mine.json." in told(app))
                assert json.loads(mine.read_text())["schema"] == 1
                # The proposal is never a file that is there.
                (folder / "llama3-8b-plan.json").touch()
                await press(pilot, "x", "enter")
                assert app.screen.query_one(Input).value == "llama3-8b-2-plan.json"

        run(case())

    def test_what_cannot_be_written_is_told(self, plan_files: PlanFiles, folder: Path) -> None:
        async def case() -> None:
            async with opened(plan_files["typo"]) as (app, pilot):
                await press(pilot, "x", "enter")
                app.screen.query_one(Input).value = ""
                # The slash is the key of the filter in the main screen, and here a character.
                await press(pilot, "text:no", "slash", "text:such", "slash", "text:plan.json", "enter")
                await until(pilot, lambda: any("cannot be written: No such file" in words for words in told(app)))

        run(case())
        assert not any(folder.iterdir())

    def test_without_anything_open_there_is_nothing_to_write(self, folder: Path) -> None:
        async def case() -> None:
            async with opened(None) as (app, pilot):
                await press(pilot, "escape", "x")
                assert app.screen is app.main
                assert "Nothing is open yet" in told(app)[-1]

        run(case())
        assert not any(folder.iterdir())


CONFIGURATION = """
[lora.main]
dim = 16
alpha = 32
target_modules = ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_up", "linear_fc1_gate", "linear_fc2"]
[jobs.llama3-8b]
model = "llama3-8b"
lora = "main"
layouts = { train = { tp = 4, pp = 2 } }
"""


class TestAccept:
    """Accept a snapshot. The interface gets a job and a ready plan, so that no model is built."""

    @pytest.fixture
    def snapshot(self, folder: Path, plans: dict[str, JobPlan]) -> Path:
        """A snapshot of the job as it was: without q, with gate."""
        (folder / "clora-inspect.toml").write_text(CONFIGURATION)
        now = take(plans["typo"], "llama3-8b")
        lines = [line for line in now.placements if not line.at.endswith("[q]")]
        lines += [
            replace(line, at=line.at.replace("[up]", "[gate]")) for line in now.placements if line.at.endswith("[up]")
        ]
        from clora_inspect.snapshot.record import with_placements

        path = folder / "snapshots" / "llama3-8b" / "train.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode(with_placements(now, lines)))
        return path

    @staticmethod
    def opening(folder: Path) -> Opening:
        return opening_of("llama3-8b", load(folder, environ={}))

    def test_one_modules_changes_are_accepted_and_the_others_wait(
        self, folder: Path, snapshot: Path, plans: dict[str, JobPlan]
    ) -> None:
        from clora_inspect.job.plan import encode as encode_plan

        class Planned(ChildProcesses):
            async def output(self, words: object) -> bytes:  # noqa: ARG002
                return encode_plan(plans["typo"])

        opening = self.opening(folder)

        def kept() -> Snapshot:
            return decode(snapshot.read_bytes(), "train.json")

        async def case() -> None:
            async with opened(opening, configuration=opening.configuration, processes=Planned()) as (app, pilot):
                assert app.scene is not None
                assert app.scene.drift is not None
                assert (app.scene.drift.added, app.scene.drift.removed) == (32, 32)
                # Nothing changed at linear_proj: that is told, and nothing is asked.
                await press(pilot, "slash", "text:linear_proj", "enter", "escape", "a")
                assert app.screen is app.main
                assert "Nothing changed at" in told(app)[-1]
                before = kept()
                await press(pilot, "slash", "text:linear_fc1", "enter", "escape", "a")
                assert isinstance(app.screen, ChooseScreen)
                await press(pilot, "enter")
                assert kept() == before
                await press(pilot, "a", "down", "enter")
                assert app.scene.drift is not None
                assert (app.scene.drift.added, app.scene.drift.removed) == (32, 0)
                assert not any(line.at.endswith(("[gate]", "[q]")) for line in kept().placements)
                assert kept().totals.placements == len(kept().placements) == 160
                # One layer alone is a module, too.
                await press(pilot, "slash", "text:linear_qkv", "enter", "escape", "u")
                await press(pilot, "a", "down", "enter")
                assert app.scene.drift.added == 31
                assert app.scene.drift.lines[0].change is Change.ADDED
                # All of it, wherever the cursor stands.
                await press(pilot, "A", "down", "enter")
                assert app.scene.drift.is_clean
                assert kept() == take(plans["typo"], "llama3-8b")

        run(case())

    def test_what_is_the_whole_jobs_is_not_accepted_in_part(
        self, folder: Path, snapshot: Path, plans: dict[str, JobPlan]
    ) -> None:
        from clora_inspect.job.plan import encode as encode_plan

        wider = replace(plans["typo"], layout=replace(plans["typo"].layout, tp=8, world_size=16))

        class Planned(ChildProcesses):
            async def output(self, words: object) -> bytes:  # noqa: ARG002
                return encode_plan(wider)

        opening = self.opening(folder)
        before = snapshot.read_bytes()

        async def case() -> None:
            async with opened(opening, configuration=opening.configuration, processes=Planned()) as (app, pilot):
                await press(pilot, "slash", "text:linear_fc1", "enter", "escape", "a")
                assert app.screen is app.main
                assert told(app)[-1] == "The layout changed: tp 4 -> 8. That is the whole job's: press A to accept all."

        run(case())
        assert snapshot.read_bytes() == before


ECHO = """
import json, sys
words = json.loads(sys.stdin.readline())
proof = words[words.index("--proof") + 1] if "--proof" in words else "all"
ranks = int(words[words.index("--procs") + 1]) if "--procs" in words else 1
print(json.dumps({"proof": proof, "status": "passed", "detail": "done"}), flush=True)
if proof == "checkpoint":
    sys.exit("error: Rank 1 of 2 was killed.")
dropped = [] if ranks == 8 else ["tp4 is shown as tp2."] if ranks == 4 else ["tp4: not shown, 1 rank cannot show it."]
print(json.dumps({"ranks": ranks, "shrunk": ["32 layers to 2."], "dropped": dropped}), flush=True)
"""


class TestOneProof:
    def test_every_proof_is_named_in_words(self) -> None:
        assert [name for name, _, _ in proof_choices()] == ["all", *PROOF_NAMES]
        assert all(words for _, _, words in proof_choices())

    def test_v_asks_which_and_all_is_the_first(self, plan_files: PlanFiles, folder: Path) -> None:
        echo = ChildProcesses((sys.executable, "-c", ECHO))

        async def case() -> None:
            async with opened(plan_files["typo"], processes=echo) as (app, pilot):
                await press(pilot, "v")
                assert offered(app) == ["all", *PROOF_NAMES]
                await press(pilot, "enter")
                assert isinstance(app.screen, VerifyScreen)
                screen = app.screen
                await until(pilot, lambda: screen.state == "done")
                assert [each.proof for each in screen.proofs] == ["all"]
                await press(pilot, "v")
                await take_option(app, pilot, "zero-b")
                await until(pilot, lambda: [each.proof for each in screen.proofs] == ["zero-b"])
                await until(pilot, lambda: "zero-b" in screen.query_one("#text", TextPane).text)
                screen.state = ""
                await press(pilot, "r")
                await until(pilot, lambda: screen.state == "done")
                assert [each.proof for each in screen.proofs] == ["zero-b"]
                await press(pilot, "x", "enter", "enter")
                await until(pilot, lambda: "Wrote llama3-8b-proofs.jsonl." in told(app))
                await press(pilot, "escape", "v")
                await take_option(app, pilot, "merge")
                again = app.screen
                assert isinstance(again, VerifyScreen)
                await until(pilot, lambda: [each.proof for each in again.proofs] == ["merge"])
                await press(pilot, "escape")
                await until(pilot, lambda: app.screen is app.main)

        run(case())
        assert json.loads((folder / "llama3-8b-proofs.jsonl").read_text())["proof"] == "zero-b"

    def test_what_is_not_shown_is_said_and_more_ranks_show_it(self, plan_files: PlanFiles) -> None:
        """The plan has tp 4 and pp 2, of which one process shows nothing."""
        echo = ChildProcesses((sys.executable, "-c", ECHO))

        async def case() -> None:
            async with opened(plan_files["typo"], processes=echo) as (app, pilot):
                await press(pilot, "v", "enter")
                screen = app.screen
                assert isinstance(screen, VerifyScreen)
                pane = screen.query_one("#text", TextPane)
                await until(pilot, lambda: "8 show tp4 pp2 sp." in pane.text)
                assert "shrunk:     32 layers to 2." in pane.text
                assert "layout:     tp4: not shown, 1 rank cannot show it." in pane.text
                assert "Press p to run more ranks" in pane.text
                await press(pilot, "p")
                assert offered(app) == ["1", "2", "4", "8"]
                await take_option(app, pilot, "4")
                await until(pilot, lambda: "tp4 is shown as tp2." in pane.text)
                assert "8 show tp4 pp2 sp." in pane.text
                await press(pilot, "p")
                await take_option(app, pilot, "8")
                await until(pilot, lambda: screen.end and screen.end.ranks == 8)
                assert "Press p" not in pane.text
                # The number of ranks is kept when one proof is run alone.
                await press(pilot, "v")
                await take_option(app, pilot, "zero-b")
                await until(pilot, lambda: [each.proof for each in screen.proofs] == ["zero-b"] and screen.end)
                assert screen.end.ranks == 8

        run(case())

    def test_a_run_that_breaks_off_after_a_proof_is_not_taken_for_done(self, plan_files: PlanFiles) -> None:
        echo = ChildProcesses((sys.executable, "-c", ECHO))

        async def case() -> None:
            async with opened(plan_files["typo"], processes=echo) as (app, pilot):
                await press(pilot, "v")
                await take_option(app, pilot, "checkpoint")
                screen = app.screen
                assert isinstance(screen, VerifyScreen)
                pane = screen.query_one("#text", TextPane)
                await until(pilot, lambda: "Rank 1 of 2 was killed." in pane.text)
                assert "The other proofs could not be run" in pane.text
                assert [each.proof for each in screen.proofs] == ["checkpoint"]

        run(case())

    def test_a_plan_without_a_layout_offers_no_ranks(self, tmp_path: Path) -> None:
        plan = tmp_path / "plan.json"
        plan.write_bytes(encode_plan(plan_job(Job(model="llama3-8b", model_overrides={"num_layers": 1}))))
        echo = ChildProcesses((sys.executable, "-c", ECHO))

        async def case() -> None:
            async with opened(plan, processes=echo) as (app, pilot):
                await press(pilot, "v", "enter")
                screen = app.screen
                assert isinstance(screen, VerifyScreen)
                await until(pilot, lambda: "32 layers to 2." in screen.query_one("#text", TextPane).text)
                assert "Press p" not in screen.query_one("#text", TextPane).text
                await press(pilot, "p")
                assert app.screen is screen
                assert "One rank shows all of this layout that a CPU can show." in told(app)

        run(case())


class TestSnippet:
    @pytest.mark.parametrize(
        "lora",
        [
            CanonicalLoRA(),
            JOBS["typo"].lora,
            JOBS["deepseek"].lora,
            CanonicalLoRA(target_modules=[], exclude_modules=["output_layer", "*.layers.{0..3}.*"], dim=8, alpha=16.5),
            CanonicalLoRA(dropout=0.1, dropout_position="post", share_expert_adapters=False),
        ],
        ids=["defaults", "typo", "long", "excluding", "dropout"],
    )
    def test_it_makes_the_same_lora_and_uses_it(self, lora: CanonicalLoRA) -> None:
        text = python_snippet(lora_fields(lora))
        made: dict[str, object] = {}
        head, _, use = text.partition("plan = ")
        exec(head, made)  # our own text, of the tests' own values
        assert made["lora"] == lora
        assert use.startswith("lora.plan(model)")
        assert "\nlora(model)" in use
        assert max(map(len, text.splitlines())) <= 100

    def test_it_is_copied(self, plan_files: PlanFiles) -> None:
        async def case() -> None:
            async with opened(plan_files["typo"]) as (app, pilot):
                await press(pilot, "Y")
                assert app.clipboard == python_snippet(lora_fields(JOBS["typo"].lora))
                assert 'target_modules=["linear_q", ' in app.clipboard.replace("[\n        ", "[").replace(
                    ",\n        ", ", "
                )

        run(case())
