"""Read a saved plan, or a snapshot as the plan that it remembers."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from clora_inspect.jobplan import decode

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.jobplan import JobPlan


def read_plan(path: Path) -> JobPlan:
    """The plan in the file at `path`.

    Raises:
        CloraError: it is neither a plan nor a snapshot.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    was_on = gc.isenabled()
    gc.disable()
    try:
        return decode(data, path.name)
    finally:
        if was_on:
            gc.enable()
