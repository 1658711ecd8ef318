"""Measure how fast the interface is on a model of 120,000 tree nodes, against its limits.

    python benchmarks/tui_speed.py          # plans the model first
    python benchmarks/tui_speed.py PLAN     # with a saved plan

The model is deepseek-v3 with its routed experts written out as modules of their own, saved as
`plan -o` saves it. First paint is the time from the start of the real command, in a terminal, until
it has written the panes, or the tree's rows, to the terminal. The rest is measured inside of a
running interface. Each figure is a median of several runs.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from msgspec.structs import replace

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import JobPlan, RankClass

TARGETS = [
    *("linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj"),
    *("linear_proj", "linear_fc1_up", "linear_fc1_gate", "linear_fc2"),
]
NODES = 120_000
LIMITS = {"first paint": 0.6, "filter": 150.0, "cursor move": 33.0, "memory": 300.0}
"""Beginning of a figure's name -> limit, in seconds, milliseconds, milliseconds and megabytes."""
RUNS = 5


def large_plan() -> JobPlan:
    """Return a plan of deepseek-v3 on tp8 pp16 ep64, with as many experts as make `NODES` nodes."""
    from clora_inspect.pipeline import plan_job

    lora = CanonicalLoRA(target_modules=TARGETS, dim=32, alpha=32)
    plan = plan_job(Job(model="deepseek-v3", lora=lora, layout=Layout(tp=8, pp=16, ep=64, etp=1), targets_written=True))
    layers = 58
    experts = -(-NODES // (layers * 3))
    return replace(plan, rank_classes=tuple(_written_out(each, experts) for each in plan.rank_classes))


def _written_out(rank_class: RankClass, experts: int) -> RankClass:
    placements = [
        replace(each, module=place) for each in rank_class.placements for place in _places(each.module, experts)
    ]
    skipped = [replace(each, module=place) for each in rank_class.skipped for place in _places(each.module, experts)]
    return replace(rank_class, placements=tuple(placements), skipped=tuple(skipped))


def _places(module: str, experts: int) -> list[str]:
    stem, found, last = module.partition(".mlp.experts.")
    return [f"{stem}.mlp.experts.local_experts.{n}.{last}" for n in range(experts)] if found else [module]


MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import tui_speed
from clora_inspect.job.plan import encode
Path({path!r}).write_bytes(encode(tui_speed.large_plan()))
"""

COMMAND = "from clora_inspect.cli import main; raise SystemExit(main())"
FIRST, TREE = b"Model", b"layers {3..60}"
"""Text of the first frame (a pane's title), and of the tree's first rows."""


def paints(path: Path, bytecode: Path) -> list[tuple[float, float, float]]:
    """Return for each run the seconds from the start of the command to the first frame and to the
    first frame with the tree's rows, and the CPU seconds to the latter, which vary less.
    """
    # An installed package has its bytecode. The first run writes it and is not counted.
    environment = {
        **os.environ,
        "PYTHONPYCACHEPREFIX": str(bytecode),
        "PYTHONDONTWRITEBYTECODE": "",
        "TERM": "xterm-256color",
    }
    return [_paint(path, environment) for _ in range(RUNS + 1)][1:]


def _paint(path: Path, environment: dict[str, str]) -> tuple[float, float, float]:
    outside, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 140, 0, 0))
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "tui", str(path)],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment,
        start_new_session=True,
    )
    os.close(inside)
    shown, first = b"", 0.0
    try:
        while TREE not in shown:
            shown += os.read(outside, 1 << 16)
            if not first and FIRST in shown:
                first = time.perf_counter() - began
        return first, time.perf_counter() - began, _cpu_seconds(process.pid)
    finally:
        process.kill()
        process.wait()
        os.close(outside)


def _cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a running process, to a hundredth."""
    # User and system time are fields 14 and 15 of the line, see proc(5). The text before the last
    # ")" holds two fields, and may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def inside(path: Path) -> dict[str, float]:
    """Return the median times from a key to the next frame."""
    from clora_inspect.tui.app import InspectorApp
    from clora_inspect.tui.job.opening import opening_of
    from clora_inspect.tui.screenshot import settle
    from clora_inspect.tui.tree.rows import TreeFilter

    app = InspectorApp(opening_of(str(path), None))
    async with app.run_test(size=(140, 45)) as pilot:
        await settle(pilot, app)
        tree = app.scene.tree
        print(f"{len(tree.nodes):,} nodes")
        found: dict[str, list[float]] = {}

        def timed(name: str, begin: tuple[float, float]) -> None:
            app.screen._compositor.render_update(full=True)  # noqa: SLF001
            found.setdefault(f"{name}, ms", []).append(1000 * (time.perf_counter() - begin[0]))
            found.setdefault(f"{name}, ms of CPU", []).append(1000 * (time.process_time() - begin[1]))

        for number in range(RUNS):
            for name, text, only in (
                ("by name", f"linear_fc{1 + number % 2}", TreeFilter.ALL),
                ("by class", "rowparallel", TreeFilter.ALL),
                ("by a pattern of layers", f"*.layers.{{{number + 3}..{number + 9}}}.*.linear_fc2", TreeFilter.ALL),
                ("by a pattern of a target", "*.linear_fc1_up", TreeFilter.ALL),
                ("by the widest pattern", "*", TreeFilter.ALL),
                ("only adapted", "", TreeFilter.ADAPTED),
                ("only missed", "", TreeFilter.MISSED),
                ("only findings", "", TreeFilter.FINDINGS),
            ):
                app.main.filter("", TreeFilter.ALL)
                begin = time.perf_counter(), time.process_time()
                app.main.filter(text, only)  # what typing does, without the keyboard's own time
                timed(f"filter {name}", begin)
        app.main.filter("", TreeFilter.ALL)
        app.main.model.focus()
        for _ in range(60):
            begin = time.perf_counter(), time.process_time()
            app.main.model.action_down()
            app.main.tree_moved()
            timed("cursor move", begin)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            # In a process of its own: torch would count as memory of the interface.
            code = MAKE.format(folder=str(Path(__file__).parent), path=str(path))
            subprocess.run([sys.executable, "-c", code], check=True)
        print(f"{path.stat().st_size / 1e6:.0f} MB of JSON")
        runs = paints(path, Path(folder) / "bytecode")
        figures = {
            "first paint, s": statistics.median(first for first, *_ in runs),
            "the tree is there, s": statistics.median(tree for _, tree, _ in runs),
            "  the fastest of them, s": min(tree for _, tree, _ in runs),
            "  s of CPU": statistics.median(cpu for *_, cpu in runs),
            **asyncio.run(inside(path)),
        }
        figures["memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, figure in figures.items():
        limit = (
            None if name.endswith("of CPU") else next((LIMITS[each] for each in LIMITS if name.startswith(each)), None)
        )
        verdict = (
            "" if limit is None else f"{figure / limit:5.2f} of {limit:g}   {'kept' if figure <= limit else 'BROKEN'}"
        )
        print(f"{name:<40} {figure:8.2f}   {verdict}")


if __name__ == "__main__":
    main()
