"""Make sure that the process has the three standard files: a daemon, or `>&-` in a shell, starts it
without them.
"""

from __future__ import annotations

import os
import sys


def open_missing_files() -> None:
    """Open the null device for each of stdin, stdout and stderr that is closed.

    A file that is opened later would get the free number, and everything that libraries print to
    descriptor 1 or 2 would end in it. What the command prints there is discarded.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system gives the smallest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)
    # Python has set those to None that were closed when it started.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
