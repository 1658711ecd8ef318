"""Measure `clora-inspect fit`: seconds, memory, and how few layers it measures.

    python benchmarks/fit.py [--all]

Each case is a process of its own. A row has the time on the clock and on the CPU, the peak of the
process's memory, the layouts that can be built, and the ways to split a layer that were measured,
of those that all layouts would take. `--all` lists every layout as well where that takes minutes at
most, and prints how much longer it takes than the ten cheapest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from clora_inspect.fit.candidates import Batch, Refused, candidates, recomputes
from clora_inspect.fit.measure import key_of
from clora_inspect.sources.definition import load_definition

CASES = (
    ("llama3-70b", 64, 80.0),
    ("llama3-70b", 8, 24.0),
    ("qwen3-30b-a3b", 16, 80.0),
    ("qwen3-235b-a22b", 64, 80.0),
    ("deepseek-v3", 1024, 80.0),
    # Nothing fits.
    ("deepseek-v3", 16, 80.0),
)
FEW_WAYS = 200
"""Ways to split a layer up to which `--all` measures them all."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The cost and the output of one process."""

    wall_s: float
    cpu_s: float
    megabytes: float
    document: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="list every layout as well, where it takes minutes at most")
    everything = parser.parse_args().all
    print(f"{'job':30}{'clock':>9}{'CPU':>9}{'memory':>9}{'layouts':>10}{'measured':>10}{'of':>7}{'all take':>10}")
    for model, gpus, gib in CASES:
        ways = _ways(model, gpus)
        ran = _run(model, gpus, gib, "--rows", "10")
        ratio = ""
        if everything and ways <= FEW_WAYS:
            ratio = f"{_run(model, gpus, gib).cpu_s / ran.cpu_s:.1f} x"
        found = ran.document
        print(
            f"{f'{model} on {gpus} x {gib:g} GiB':30}{ran.wall_s:7.1f} s{ran.cpu_s:7.1f} s{ran.megabytes:6.0f} MB"
            f"{found['candidates']:10,}{found['measured']:10,}{ways:7,}{ratio:>10}",
            flush=True,
        )


def _ways(model: str, gpus: int) -> int:
    """Return the ways to split a layer that all layouts have."""
    definition = load_definition(model)
    batch = Batch(gpus=gpus, seq_length=4096, rows=gpus)
    return len({key_of(each) for each in candidates(definition, batch, Refused(), recomputes(definition))})


def _run(model: str, gpus: int, gib: float, *more: str) -> Ran:
    words = ["fit", model, "--isolated", "-q", "-f", "json", "--gpus", str(gpus), "--gpu-memory-gib", str(gib), *more]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "clora_inspect", *words], stdout=subprocess.PIPE)
    if process.stdout is None:
        raise RuntimeError("no pipe")
    document = json.loads(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ran(
        wall_s=time.perf_counter() - began,
        cpu_s=used.ru_utime + used.ru_stime,
        megabytes=used.ru_maxrss / 1024,
        document=document,
    )


if __name__ == "__main__":
    main()
