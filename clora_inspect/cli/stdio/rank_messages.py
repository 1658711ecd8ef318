"""Let the first of several launched ranks report for all of them.

Under torchrun or srun every rank runs the whole command, so a mistake in the command line would be
printed once by each of them.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from datetime import timedelta
from typing import TYPE_CHECKING

from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.verify.ranks.launch import Launch

LONGEST_WAIT = timedelta(seconds=30)
"""How long a rank waits for the exit statuses of the others.

Ranks wait for each other because a launcher kills all of them as soon as one ends with an error:
the first rank might be killed before it has printed its message.
"""


def run_together(launch: Launch, run: Callable[[], int]) -> int:
    """Run the command on this rank, wait until all ranks have ended, and return its exit status.

    stderr of the first rank is printed. That of another rank is printed only when it has
    something else to say: the rank ended with an error of its own, or with a bug.
    """
    if launch.is_first:
        status = run()
        _exchange(launch, status, dict.fromkeys(range(1, launch.ranks), 0))
        return status
    with redirect_stderr(io.StringIO()) as stderr:
        status = run()
    status_of_first = _exchange(launch, status, {0: ExitCode.INTERNAL})[0]
    if status >= ExitCode.USAGE and (status != status_of_first or status == ExitCode.INTERNAL):
        for line in stderr.getvalue().splitlines():
            narrate(f"rank {launch.rank}: {line}")
    return status


def _exchange(launch: Launch, status: int, others: dict[int, int]) -> dict[int, int]:
    """Tell the others the exit status of this rank, and return theirs.

    Args:
        launch: this rank.
        status: its exit status.
        others: rank -> the status to assume when that rank sends none in time.
    """
    from clora.errors import CloraError

    sys.stdout.flush()
    statuses = dict(others)
    try:
        store = launch.store(LONGEST_WAIT.total_seconds())
        if launch.is_first:
            store.set("ended0", str(int(status)))
        for rank in others:
            store.wait([f"ended{rank}"], LONGEST_WAIT)
            statuses[rank] = int(store.get(f"ended{rank}"))
        if not launch.is_first:
            # This is the last call of a rank that is not the first. The first rank may host the
            # store, and ends when it has read the status of everybody.
            store.set(f"ended{launch.rank}", str(int(status)))
    except (CloraError, RuntimeError):
        # The ranks never met, or one was killed or did not answer in time: each goes on alone.
        return statuses
    return statuses
