"""Compare the time of `clora-inspect plan` with two source trees of megatron-core.

    python benchmarks/release_cost.py OLD NEW [--rounds 7] [JOB ...]

`OLD` and `NEW` hold `megatron/core`: checkouts, or folders of `pip install --no-deps --target`.
Prints for each job the median CPU seconds of whole processes, and the median of the ratios NEW /
OLD, one of each round. The two trees take turns, so that a busy minute of the machine slows both.
The exit status is 1 if a ratio is above the limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from plan_cost import measure

LARGEST_RATIO = 1.3
JOBS = ("llama3-8b/train", "deepseek-v3/train", "nemotron-h-8b/train", "qwen3-next-80b-a3b/train")
"""One of each kind of model, in the layouts of this repository."""


def main() -> int:
    """Measure, print, and return 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("jobs", nargs="*", default=JOBS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_intermixed_args()
    trees = (options.old.resolve(), options.new.resolve())
    broken = False
    print(f"{'job':<28} {'old cpu s':>9} {'new cpu s':>9} {'ratio':>6} {'min':>6} {'max':>6} {'limit':>6}")
    for job in options.jobs:
        # Not counted: the first run compiles the files of the tree.
        for tree in trees:
            _seconds(tree, job)
        rounds = [tuple(_seconds(tree, job) for tree in trees) for _ in range(options.rounds)]
        old, new = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
        ratios = [after / before for before, after in rounds]
        ratio = statistics.median(ratios)
        broken |= ratio > LARGEST_RATIO
        print(
            f"{job:<28} {old:9.2f} {new:9.2f} {ratio:6.2f} {min(ratios):6.2f} {max(ratios):6.2f} {LARGEST_RATIO:6.2f}"
            f"{'  BROKEN' if ratio > LARGEST_RATIO else ''}",
            flush=True,
        )
    return int(broken)


def _seconds(tree: Path, job: str) -> float:
    """Return the CPU seconds of planning `job` with the megatron-core in `tree`."""
    path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    return measure(("plan", job), PYTHONPATH=path).cpu_seconds


if __name__ == "__main__":
    sys.exit(main())
