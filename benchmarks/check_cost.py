"""Measure how long a check of this repository takes, with and without its cache, and how long the
shell waits for a completion. Prints medians over whole processes, next to their limits.

    python benchmarks/check_cost.py    # from the root of the repository
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass

from plan_cost import measure

CHECK = ("check", "--no-progress")


@dataclass(frozen=True)
class Limit:
    """One command, how many times it runs, and the limit of its median in seconds."""

    name: str
    words: tuple[str, ...]
    seconds: float
    runs: int = 5
    typed: str | None = None
    """A line that the shell completes, instead of `words`."""


LIMITS = (
    Limit("check, no cache", (*CHECK, "--no-cache"), seconds=45.0, runs=3),
    Limit("check, everything cached", CHECK, seconds=1.0),
    Limit("explain CL101", ("explain", "CL101"), seconds=0.150),
    Limit("complete a job", (), seconds=0.150, typed="clora-inspect check deep"),
    Limit("complete a layout", (), seconds=0.150, typed="clora-inspect check --layout tr"),
    Limit("complete an architecture", (), seconds=0.150, typed="clora-inspect plan deep"),
    Limit("complete a rule", (), seconds=0.150, typed="clora-inspect check --select CL1"),
)


def main() -> int:
    """Measure, print, and return 1 if a limit is broken."""
    measure(CHECK)  # fills the cache
    broken = False
    print(f"{'':<26} {'median s':>8} {'min':>6} {'max':>6} {'limit':>6} {'of limit':>8}")
    for limit in LIMITS:
        seconds = [measure(limit.words, **_completing(limit.typed)).seconds for _ in range(limit.runs)]
        median = statistics.median(seconds)
        broken |= median > limit.seconds
        print(
            f"{limit.name:<26} {median:8.3f} {min(seconds):6.3f} {max(seconds):6.3f} {limit.seconds:6.2f} "
            f"{median / limit.seconds:8.0%}{'  BROKEN' if median > limit.seconds else ''}"
        )
    return int(broken)


def _completing(line: str | None) -> dict[str, str]:
    """Return the environment variables that bash sets when Tab is pressed after `line`."""
    if line is None:
        return {}
    return {
        "_CLORA_INSPECT_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }


if __name__ == "__main__":
    sys.exit(main())
