"""Measure how long it takes to match many targets with the modules of a large model.

    python benchmarks/many_targets.py [--targets 10000] [--modules 120000]

Each kind of target is matched by `PatternSet`, as planning and the rules do, and, on a share of the
modules, one target after the other. The table shows seconds of CPU time, the second number scaled
to all modules, and the ratio of the two. Both are measured in the same process, one after the
other, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from clora.patterns import PatternSet, matches

if TYPE_CHECKING:
    from collections.abc import Callable

EXPERTS = 1_000
SHARE = 400
"""One module of as many is matched with one target after the other."""


def modules(number: int) -> list[str]:
    """Return paths like those of a mixture of single experts."""
    paths = [
        path
        for layer in range(number // (2 * EXPERTS) + 1)
        for path in (
            f"decoder.layers.{layer}.self_attention.linear_q",
            *(
                f"decoder.layers.{layer}.mlp.experts.local_experts.{expert}.{name}"
                for expert in range(EXPERTS)
                for name in ("linear_fc1_up", "linear_fc2")
            ),
        )
    ]
    return paths[:number]


def kinds(number: int, paths: list[str]) -> dict[str, list[str]]:
    """Return lists of `number` targets, by what they have in common."""
    step = max(len(paths) // number, 1)
    return {
        "bare names": ["linear_fc2", *(f"linear_{one}" for one in range(number - 1))],
        "whole paths": paths[::step][:number],
        "patterns with a layer and an expert": [
            f"*.layers.{one % 60}.*.local_experts.{one // 60}.linear_fc2" for one in range(number)
        ],
        "ranges": [f"*.layers.{{{one % 60}..{one % 60 + one // 60}}}.*.linear_fc2" for one in range(number)],
        "fifty stars": [f"{'*l*' * 25}{one}*" for one in range(number)],
    }


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--modules", type=int, default=120_000)
    options = parser.parse_args()
    paths = modules(options.modules)
    out = sys.stdout.write
    out(f"{options.targets:,} targets, {len(paths):,} modules, seconds of CPU time\n\n")
    out(f"{'targets':38} {'at once':>8} {'one by one':>11} {'ratio':>9}\n")
    for name, targets in kinds(options.targets, paths).items():

        def at_once(targets: list[str] = targets) -> None:
            patterns = PatternSet(targets)
            for path in paths:
                patterns.matching(path)

        def one_by_one(targets: list[str] = targets) -> None:
            for target in targets[:SHARE]:
                for path in paths[::SHARE]:
                    matches(target, path)

        fast = seconds(at_once)
        # Only the first targets are tried as well.
        slow = seconds(one_by_one) * SHARE * (len(targets) / min(len(targets), SHARE))
        out(f"{name:38} {fast:8.2f} {slow:11.0f} {slow / fast:8.0f}x\n")


if __name__ == "__main__":
    main()
