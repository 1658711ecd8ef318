"""Run a function on real ranks: processes on the CPU with gloo between them and megatron-core in
each.

Write a task in a module beside the tests, which conftest.py puts on `sys.path`. It runs on every
rank in the virtual world, with megatron-core's process groups made for the layout. It returns
tensors, numbers, strings, and lists, tuples and dicts of these:

    def loss(kind: str) -> dict[str, Any]:
        model = tiny_models.build(kind, Layout(tp=2), "cpu")
        ...
        return {"loss": ..., "grads": {...}}

Call it in a test:

    from gloo import on_ranks

    first, second = on_ranks(Layout(tp=2), "my_tasks:loss", "dense")

The processes for a number of ranks start once per test session and serve all tasks: 3 s for the
first task, then as little as the task takes. More processes than `layout.model_world` (`ranks=4`)
are data-parallel. An exception in a task is raised here as a `RankError` with the traceback of
every rank that failed, and a `CloraError` as itself. A task that hangs is killed.
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

from clora_inspect.virtual.processes import Processes, RankError

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout

__all__ = ["RankError", "on_ranks", "processes"]

_worlds: dict[int, Processes] = {}


def on_ranks(layout: Layout, task: str, *args: Any, ranks: int | None = None, timeout_s: float = 120.0) -> list[Any]:
    """Call `task` (`"module:function"`) with `args` on every rank, and return the results in rank
    order.
    """
    return processes(ranks or layout.model_world).run(task, layout, *args, timeout_s=timeout_s)


def processes(count: int) -> Processes:
    """Return the session's processes for `count` ranks."""
    if count not in _worlds:
        _worlds[count] = Processes(count)
        atexit.register(_worlds[count].close)
    return _worlds[count]
