"""Run a function on real ranks: processes on the CPU with gloo between them, megatron-core in each.

In a helper module beside the tests (its folder on `sys.path` through the conftest.py):

    def loss(kind: str) -> float:                       # runs on every rank, inside
    virtual_megatron("cpu"),
        model = tiny_models.build(kind, Layout(tp=2), "cpu")  # with parallel_state initialised for
        the layout ...
        return {"loss": ..., "grads": {...}}            # tensors, numbers, strings, and lists,
        tuples, dicts of them

In a test:

    from gloo import on_ranks
    first, second = on_ranks(Layout(tp=2), "my_helper:loss", "dense")

A process is started once per number of ranks and test session and serves all tasks: 3 s for the
first, then as little as the task takes. More processes than `layout.model_world` (`ranks=4`) are
data-parallel. An exception in a task is raised here as `RankError` with every failed rank's
traceback (a `CloraError` as itself); a task that hangs is killed.
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
    """Call `task` (`"module:function"`) with `args` on every rank; what each returned, in rank
    order.
    """
    return processes(ranks or layout.model_world).run(task, layout, *args, timeout_s=timeout_s)


def processes(count: int) -> Processes:
    """The session's own processes for `count` ranks."""
    if count not in _worlds:
        _worlds[count] = Processes(count)
        atexit.register(_worlds[count].close)
    return _worlds[count]
