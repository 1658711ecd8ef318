"""Child processes: the same job as in the interface, isolated, stoppable, and none left behind."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest
from driving import is_running

from clora import CanonicalLoRA
from clora.errors import CloraError
from clora_inspect.cli import main
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import decode
from clora_inspect.pipeline import plan_job
from clora_inspect.tui.job.child import ChildProcesses, CommandError
from clora_inspect.tui.job.command_lines import environment, plan_words, verify_words
from clora_inspect.tui.job.plan_request import request_of

if TYPE_CHECKING:
    from pathlib import Path

JOBS = {
    "defaults": Job(model="llama3-8b"),
    "layout": Job(model="llama3-8b", layout=Layout(tp=4, pp=2, vpp=2, cp=2, sp=False, world_size=32)),
    "experts": Job(model="mixtral-8x7b", layout=Layout(tp=2, ep=4, etp=2, sp=True)),
    "targets": Job(
        model="llama3-8b",
        lora=CanonicalLoRA(target_modules=["linear_q", "*.layers.{0..3}.*.linear_fc1_up"], alpha=16.5, dropout=0.1),
        targets_written=True,
    ),
    "default targets, written": Job(model="llama3-8b", targets_written=True),
    "excludes": Job(model="llama3-8b", lora=CanonicalLoRA(target_modules=[], exclude_modules=["output_layer"], dim=8)),
    "model": Job(
        model="my_model.py:build=it",
        model_overrides={"num_layers": 4, "name": "a word", "layout": "E|t*3", "none": None, "list": [1, 2.5, "x"]},
    ),
    "dash": Job(model="-x.py:build"),
}


@pytest.mark.parametrize("name", JOBS)
def test_the_command_line_says_the_same_job(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planned: list[Job] = []

    def keep(job: Job, _workload: object) -> None:
        planned.append(job)
        raise CloraError("enough")

    monkeypatch.setattr("clora_inspect.pipeline.plan_job", keep)
    # A configured job of the model's name, and options in the environment: neither is asked.
    (tmp_path / "clora-inspect.toml").write_text('[jobs.llama3-8b]\nmodel = "mixtral-8x7b"\n')
    monkeypatch.chdir(tmp_path)
    for variable, value in {"TP": "8", "DIM": "4", "LAYOUT": "train", "OUTPUT": "x", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"CLORA_INSPECT_{variable}", value)
    for variable in os.environ.keys() - environment().keys():
        monkeypatch.delenv(variable)
    main(plan_words(request_of(JOBS[name], str(tmp_path))))
    assert planned == [JOBS[name]]


def test_proofs_are_of_the_same_job_and_of_its_implementation() -> None:
    request = request_of(JOBS["layout"])
    words = verify_words(request, "megatron-bridge", "zero-b")
    assert words[1 : words.index("--implementation")] == plan_words(request)[1 : plan_words(request).index("--device")]
    assert words[words.index("--implementation") :] == [
        *("--implementation", "megatron-bridge", "--proof", "zero-b", "-f", "jsonl", "--", "llama3-8b"),
    ]
    words = verify_words(request, "clora", None, procs=8)
    assert words[words.index("--implementation") :] == [
        *("--implementation", "clora", "--procs", "8", "-f", "jsonl", "--", "llama3-8b"),
    ]


RAISES = "def build():\n    raise RuntimeError('{}')\n"

SLEEPS = """
import os, pathlib, subprocess, time
def build():
    below = subprocess.Popen(["sleep", "600"])
    pathlib.Path("new").write_text(f"{os.getpid()} {below.pid}")
    pathlib.Path("new").rename("pids")
    time.sleep(600)
"""


def test_a_command_runs_alone_is_stopped_whole_and_nothing_stays(tmp_path: Path) -> None:
    mine, pids = tmp_path / "mine.py", tmp_path / "pids"
    job = Job(model="llama3-8b", layout=Layout(tp=4, pp=2))
    words, own = plan_words(request_of(job)), plan_words(request_of(Job(model="mine.py:build"), str(tmp_path)))

    async def stopped(processes: ChildProcesses) -> None:
        mine.write_text(SLEEPS)
        pids.unlink(missing_ok=True)
        planning = asyncio.create_task(processes.output(own))
        while not pids.exists():
            assert not planning.done()
            await asyncio.sleep(0.02)
        planning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await planning

    async def gone() -> None:
        for process in map(int, pids.read_text().split()):
            while is_running(process):  # noqa: ASYNC110  # nobody tells of the end of another's child
                await asyncio.sleep(0.02)

    async def case() -> None:
        processes = ChildProcesses()
        assert not processes.is_warm
        assert decode(await processes.output(words), "it") == plan_job(job)
        assert processes.is_warm
        # Nothing is kept of the user's module, whatever the one before did.
        for mistake in ("first", "second"):
            mine.write_text(RAISES.format(mistake))
            with pytest.raises(CommandError, match=f"^mine.py:build raised RuntimeError: {mistake}"):
                await processes.output(own)
        await stopped(processes)
        await asyncio.wait_for(gone(), 60)
        assert processes.is_warm
        assert decode(await processes.output(words), "it") == plan_job(job)
        await stopped(processes)
        await processes.close()
        await asyncio.wait_for(gone(), 60)
        # Also in the middle of an import.
        processes = ChildProcesses()
        planning = asyncio.create_task(processes.output(words))
        await asyncio.sleep(0.2)
        await processes.close()
        with pytest.raises(CommandError):
            await planning

    asyncio.run(case())


def test_closing_does_not_wait_for_output_that_nobody_reads() -> None:
    prints = "import sys; sys.stdin.readline(); print('x' * 1_000_000, flush=True); sys.stdin.read()"

    async def case() -> None:
        processes = ChildProcesses((sys.executable, "-c", prints))
        async with processes.run(["plan"]) as command:
            # The first piece has come, and the rest waits in the pipe.
            assert await command._read()
            await asyncio.sleep(0.2)
        await processes.close()

    asyncio.run(asyncio.wait_for(case(), 60))
