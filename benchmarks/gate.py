"""Measure the gate: its time on one rank that holds all of llama3-8b, on the meta device, and the
collectives of whole jobs. Prints both next to their limits.

    python benchmarks/gate.py

Making the process groups is not counted: a trainer has them anyway.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clora import CanonicalLoRA
from clora_inspect.job import plan as saved_plan
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.launch.agreement import Ranks
from clora_inspect.launch.gate import judge
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.snapshot import record
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron
from clora_inspect.virtual.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS = 5
LIMIT_S = 1.0
WORLDS = (2, 4, 8)
MOST_COLLECTIVES = 26
MODEL = "llama3-8b"
TINY: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 8,
    "vocab_size": 64,
    "params_dtype": "float32",
    "bf16": False,
}
"""Fields of the config of a model that eight processes hold on a CPU."""


def main() -> int:
    """Measure, print, and return 1 if a limit is broken."""
    with tempfile.TemporaryDirectory() as folder:
        return int(_times(Path(folder)) | _worlds(Path(folder)))


def _files(folder: Path, layout: Layout, fields: dict[str, Any]) -> dict[str, Path]:
    """Write a snapshot and a plan of the job."""
    plan = plan_job(Job(model=MODEL, lora=CanonicalLoRA(), layout=layout, model_overrides=fields))
    files = {"snapshot": folder / "train.json", "saved plan": folder / "plan.json"}
    files["snapshot"].write_bytes(record.encode(record.take(plan, MODEL)))
    files["saved plan"].write_bytes(saved_plan.encode(plan))
    return files


def _times(folder: Path) -> bool:
    """Print the times on one rank; return whether one is above its limit."""
    files = _files(folder, Layout(), {})
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()):
        chunks = build_chunks(load_definition(MODEL), Layout())
        lora = CanonicalLoRA()
        planning = _median(lambda: lora.plan(chunks))
        lora(chunks)
        medians = {name: _median(lambda file=file: _passes(chunks, file)) for name, file in files.items()}
    print(f"{MODEL} on one rank, median of {RUNS}")
    print(f"  {'planning it':<24} {planning:6.3f} s")
    for name, seconds in medians.items():
        over = "  BROKEN" if seconds > LIMIT_S else ""
        print(f"  {'gate with a ' + name:<24} {seconds:6.3f} s (limit {LIMIT_S}), {seconds / planning:.1f} plans{over}")
    return any(seconds > LIMIT_S for seconds in medians.values())


def _passes(chunks: Any, file: Path) -> None:
    verdict = judge(chunks, file, Ranks(torch.device("cpu")))
    if verdict.code:
        raise SystemExit(verdict.text)


def _median(run: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _worlds(folder: Path) -> bool:
    """Print the collectives of each world; return whether they depend on it, or are too many."""
    layout = Layout(tp=2)
    file = _files(folder, layout, TINY)["snapshot"]
    print("collectives of a run that passes, and of one in which a rank differs")
    found = []
    for world in WORLDS:
        with Processes(world, timeout_s=600) as ranks:
            passing, failing = (ranks.run("gate:collectives", layout, str(file), drift)[0] for drift in (False, True))
        found.append((passing["sent"], failing["sent"]))
        for name, answer in (("passes", passing), ("differs", failing)):
            sizes = [int(each.split()[1]) for each in answer["sent"]]
            print(
                f"  {world} ranks, {name:<8} {len(sizes):3} collectives of {sum(sizes):9,} bytes together, "
                f"{min(sizes)} to {max(sizes):,} each; {answer['seconds']:.3f} s"
            )
    broken = any(each != found[0] for each in found) or len(found[0][1]) > MOST_COLLECTIVES
    print(f"  number and sizes {'DEPEND ON THE WORLD' if broken else 'do not depend on the world'}")
    return broken


def collectives(file: str, drift: bool) -> dict[str, Any]:
    """Return what the gate sent on this rank, in its order, and the time that it took."""
    layout = Layout(tp=2)
    with quiet():
        chunks = build_chunks(load_definition(MODEL).override(TINY), layout)
        lora = CanonicalLoRA(alpha=16 if drift and torch.distributed.get_rank() else 32)
        lora(chunks)
    sent: list[str] = []
    with _recorded(sent):
        torch.distributed.barrier()
        started = time.perf_counter()
        verdict = judge(chunks, Path(file), Ranks(torch.device("cpu")))
    if bool(verdict.code) is not drift:
        raise SystemExit(verdict.text)
    return {"sent": sent, "seconds": time.perf_counter() - started}


@contextmanager
def _recorded(sent: list[str]) -> Iterator[None]:
    """Record every collective of torch in a `with` block, with its bytes."""
    before = {name: getattr(torch.distributed, name) for name in ("all_reduce", "broadcast")}

    def recording(name: str) -> Callable[..., Any]:
        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            sent.append(f"{name} {tensor.nbytes}")
            return before[name](tensor, *args, **kwargs)

        return call

    for name in before:
        setattr(torch.distributed, name, recording(name))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(torch.distributed, name, function)


if __name__ == "__main__":
    sys.exit(main())
