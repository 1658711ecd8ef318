"""How fast the interface is on a model of 120,000 tree nodes, against its limits. Run: python benchmarks/tui_speed.py

The model is deepseek-v3 as it is planned, its routed experts written out as modules of their own. First paint is measured from the start
of the process to the first frame, and to the frame that has the tree; the rest inside a running interface without a terminal.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec.structs import replace

from clora import CanonicalLoRA
from clora_inspect.job import Job
from clora_inspect.jobplan import JobPlan, RankClass
from clora_inspect.layout import Layout

TARGETS = [
    *("linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj"),
    *("linear_proj", "linear_fc1_up", "linear_fc1_gate", "linear_fc2"),
]
NODES = 120_000
LIMITS = {
    "first paint, s": 0.6,
    "filter by name, ms": 150.0,
    "filter by pattern, ms": 150.0,
    "cursor move, ms": 33.0,
    "memory, MB": 300.0,
}
RUNS = 5


def large_plan() -> JobPlan:
    """deepseek-v3 on tp8 pp16 ep64 with so many experts of their own that the tree has `NODES` nodes."""
    from clora_inspect.pipeline import plan_job

    lora = CanonicalLoRA(target_modules=TARGETS, dim=32, alpha=32)
    plan = plan_job(Job(model="deepseek-v3", lora=lora, layout=Layout(tp=8, pp=16, ep=64), targets_written=True))
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
from clora_inspect.jobplan import encode
Path({path!r}).write_bytes(encode(tui_speed.large_plan(), indent=0))
"""

PAINT = """
import sys, time
from pathlib import Path
began = float(sys.argv[2])
from clora_inspect.tui.app import InspectorApp
from clora_inspect.tui.opening import opening_of
app = InspectorApp(opening_of(sys.argv[1], None))
painted = []
async def drive(pilot):
    painted.append(time.time() - began)
    while app.scene is None:
        await pilot.pause(0.005)
    await pilot.pause()
    print(painted[0], time.time() - began)
    app.exit()
app.run(headless=True, size=(140, 45), auto_pilot=drive)
"""


def paints(path: Path) -> tuple[float, float]:
    """Seconds to the first frame and to the frame with the tree; medians."""
    seconds = []
    for _ in range(RUNS):
        ran = subprocess.run(
            [sys.executable, "-c", PAINT, str(path), str(time.time())], capture_output=True, text=True, check=True
        )
        seconds.append(tuple(map(float, ran.stdout.split())))
    return statistics.median(first for first, _ in seconds), statistics.median(tree for _, tree in seconds)


async def inside(path: Path) -> dict[str, float]:
    """Medians of what happens after a key."""
    from clora_inspect.tui.app import InspectorApp
    from clora_inspect.tui.opening import opening_of
    from clora_inspect.tui.screenshot import settle

    app = InspectorApp(opening_of(str(path), None))
    async with app.run_test(size=(140, 45)) as pilot:
        await settle(pilot, app)
        tree = app.scene.tree
        print(f"{len(tree.nodes):,} nodes")
        found: dict[str, list[float]] = {}

        def timed(name: str, begin: tuple[float, float]) -> None:
            found.setdefault(f"{name}, ms", []).append(1000 * (time.perf_counter() - begin[0]))
            found.setdefault(f"{name}, ms of CPU", []).append(1000 * (time.process_time() - begin[1]))

        for number in range(RUNS):
            for name, text in (
                ("by name", f"linear_fc{1 + number % 2}"),
                ("by pattern", f"*.layers.{{{number + 3}..{number + 9}}}.*.linear_fc2"),
            ):
                begin = time.perf_counter(), time.process_time()
                app.main._filter(text)  # noqa: SLF001  # what typing does, without the keyboard's own time
                app.screen._compositor.render_update(full=True)  # noqa: SLF001
                timed(f"filter {name}", begin)
        app.main._filter("")  # noqa: SLF001
        app.main.model.focus()
        for _ in range(60):
            begin = time.perf_counter(), time.process_time()
            app.main.model.action_down()
            app.main.tree_moved()
            app.screen._compositor.render_update(full=True)  # noqa: SLF001
            timed("cursor move", begin)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Print the medians against the limits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
        else:
            # torch would count as the interface's memory: planned in a process of its own.
            code = MAKE.format(folder=str(Path(__file__).parent), path=str(path))
            subprocess.run([sys.executable, "-c", code], check=True)
        first, tree = paints(path)
        figures = {"first paint, s": first, "first paint with the tree, s": tree, **asyncio.run(inside(path))}
        figures["memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, figure in figures.items():
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"limit {limit:g}   {'kept' if figure <= limit else 'BROKEN'}"
        print(f"{name:<30} {figure:8.2f}   {verdict}")


if __name__ == "__main__":
    main()
