"""Measure the time and memory of `clora-inspect plan` and `--help`: whole processes, the median of
five runs. Prints them next to the limits.

    python benchmarks/plan_cost.py            # all commands
    python benchmarks/plan_cost.py --help     # commands that contain these words

Linux only: peak memory is what the kernel reports for the finished process, in KiB.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

RUNS = 5

DEEPSEEK = ("plan", "deepseek-v3", "--tp", "8", "--pp", "16", "--ep", "64", "--etp", "1")
WIDE = (*DEEPSEEK, "--world-size", "16384")


@dataclass(frozen=True)
class Limit:
    """A command, and the limits of its median time and its peak memory."""

    words: tuple[str, ...]
    seconds: float | None = None
    mebibytes: float | None = None


LIMITS = (
    Limit(("--help",), seconds=0.150),
    Limit(("plan", "llama3-8b"), seconds=3.0),
    Limit(DEEPSEEK, seconds=5.5, mebibytes=500),
    Limit((*DEEPSEEK, "--memory"), seconds=12.0, mebibytes=700),
    Limit(WIDE),
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
LARGEST_RATIO = 1.10
"""Limit of the time for a wide world divided by that for a narrow one. The two differ in the
data-parallel size, which changes no shape and so should cost nothing.
"""


@dataclass(frozen=True)
class Cost:
    """Measured time and peak memory of one process."""

    seconds: float
    cpu_seconds: float
    """CPU time of all cores. It varies less than wall-clock time on a machine with other work."""
    mebibytes: float


def main() -> int:
    """Measure, print, and return 1 if a limit is broken."""
    wanted = " ".join(sys.argv[1:])
    limits = [limit for limit in LIMITS if wanted in " ".join(limit.words)]
    medians: dict[tuple[str, ...], float] = {}
    broken = False
    print(
        f"{'command':<66} {'median s':>8} {'min':>6} {'max':>6} {'limit':>6} {'cpu s':>6} {'peak MiB':>8} {'limit':>6}"
    )
    # Not counted: the first run compiles the checkout's files. An installed package has its
    # bytecode.
    for limit in limits:
        measure(limit.words)
    # In rounds, and not one command after another: a busy minute of the machine then slows all
    # commands and not one.
    costs: dict[tuple[str, ...], list[Cost]] = {limit.words: [] for limit in limits}
    for _ in range(RUNS):
        for limit in limits:
            costs[limit.words].append(measure(limit.words))
    for limit in limits:
        seconds = [cost.seconds for cost in costs[limit.words]]
        peak = max(cost.mebibytes for cost in costs[limit.words])
        median = medians[limit.words] = statistics.median(seconds)
        too_slow = limit.seconds is not None and median > limit.seconds
        too_large = limit.mebibytes is not None and peak > limit.mebibytes
        broken |= too_slow or too_large
        cpu = statistics.median(cost.cpu_seconds for cost in costs[limit.words])
        print(
            f"{'clora-inspect ' + ' '.join(limit.words):<66} {median:8.3f} {min(seconds):6.3f} {max(seconds):6.3f} "
            f"{limit.seconds or '-':>6} {cpu:6.3f} {peak:8.0f} {limit.mebibytes or '-':>6}"
            f"{'  BROKEN' if too_slow or too_large else ''}"
        )
    if DEEPSEEK in medians and WIDE in medians:
        ratio = medians[WIDE] / medians[DEEPSEEK]
        broken |= ratio > LARGEST_RATIO
        print(f"world 16,384 over world 1,024: {ratio:.3f} (limit {LARGEST_RATIO:.2f})")
    return int(broken)


def measure(words: tuple[str, ...], **variables: str) -> Cost:
    """Run one command in a new interpreter, with these environment variables added."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "clora_inspect", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT | variables,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"clora-inspect {' '.join(words)} ended with {process.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(main())
