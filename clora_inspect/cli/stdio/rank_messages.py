"""Ranks that were launched together end together and speak once: a mistake that all of them meet is
told by the first.
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

PATIENCE = timedelta(seconds=30)
"""How long the ranks wait for each other's end. A launcher kills the others as soon as one has
ended with an error, so none goes ahead.
"""


def ended_together(launch: Launch, run: Callable[[], int]) -> int:
    """Run the command on this rank; leave when all have. Returns its exit status."""
    if launch.is_first:
        status = run()
        _wait(launch, status, dict.fromkeys(range(1, launch.ranks), 0))
        return status
    with redirect_stderr(io.StringIO()) as said:
        status = run()
    of_first = _wait(launch, status, {0: ExitCode.INTERNAL})[0]
    if status >= ExitCode.USAGE and (status != of_first or status == ExitCode.INTERNAL):
        for line in said.getvalue().splitlines():
            narrate(f"rank {launch.rank}: {line}")
    return status


def _wait(launch: Launch, status: int, others: dict[int, int]) -> dict[int, int]:
    """Say how this rank ended, and hear how `others` did; what is given for one stands when it says
    nothing.
    """
    from clora.errors import DeviceError

    sys.stdout.flush()
    heard = dict(others)
    try:
        store = launch.store()
        if launch.is_first:
            store.set("ended0", str(int(status)))
        for rank in others:
            store.wait([f"ended{rank}"], PATIENCE)
            heard[rank] = int(store.get(f"ended{rank}"))
        if not launch.is_first:
            # Last of all: the first rank may be the store, and leaves when it has heard everybody.
            store.set(f"ended{launch.rank}", str(int(status)))
    except DeviceError:
        # Nowhere to meet, which is what the first rank says as well.
        return dict.fromkeys(others, status)
    except RuntimeError:
        # Somebody has gone: everybody ends alone.
        return heard
    return heard
