"""The process that waits for command lines: `python -m clora_inspect.tui.job.child_process`.

It imports torch and megatron-core once, before the first command line arrives. Then it reads a line
from stdin, a JSON list of words, and forks: the child runs `python -m clora_inspect WORDS` in an
interpreter that has imported everything, and ends; this process waits for the next line. So every
command starts at once, in a process of its own that no earlier command has touched.

The child prints to stdout. When it has ended, a NUL and its exit status follow on a line; no output
of ours has a NUL in it. Any byte on stdin while a command runs, or the end of stdin, ends the
command.
"""

from __future__ import annotations

import gc
import io
import json
import os
import runpy
import signal
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from typing import NoReturn

WARM_UP = ["plan", "qwen2.5-0.5b", "--isolated", "--device", "meta", "-f", "json"]
"""A command that imports everything that a plan or a proof imports. Besides the imports it takes a
twentieth of a second.
"""


def main() -> None:
    """Run command lines until stdin ends."""
    # A terminal sends Ctrl-C to every process in its foreground: to the interface, and to this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = _stdin_taken()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        _run(WARM_UP)
    # The garbage collector writes into every object that it looks at. In a child that would copy
    # the memory of all modules, and take longer than a small plan.
    gc.freeze()
    while order := orders.readline():
        # An empty line is a stop that came too late: the command had ended.
        if words := json.loads(order.strip() or b"[]"):
            _run_in_child(words, orders.fileno())


def _stdin_taken() -> io.FileIO:
    """Return stdin, unbuffered: a buffer would swallow the stop that follows a command line. The
    commands get an empty stdin instead.
    """
    orders = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return io.FileIO(orders)


def _run_in_child(words: list[str], orders: int) -> None:
    # On other systems than Linux, the libraries below torch may not survive a fork. There this
    # process runs the command itself and ends, and the interface starts another one.
    if sys.platform != "linux":
        _run_in_group(words, orders)
    # A process of multiprocessing removes its temporary folders at its end, but it does not shut
    # torch down, which takes longer than a small plan takes to be made.
    child = get_context("fork").Process(target=_run_in_group, args=(words, orders))
    child.start()
    child.join()
    os.write(1, b"\0%d\n" % (child.exitcode or 0))


def _run_in_group(words: list[str], orders: int) -> NoReturn:
    # A group of its own, so that the processes which a proof starts end together with it.
    os.setpgid(0, 0)
    threading.Thread(target=_end_when_told, args=(orders,), daemon=True).start()
    sys.exit(_run(words))


def _end_when_told(orders: int) -> None:
    os.read(orders, 1)
    os.killpg(0, signal.SIGKILL)


def _run(words: list[str]) -> int:
    """Run `python -m clora_inspect WORDS` in this process, and return its exit status."""
    sys.argv[1:] = words
    try:
        runpy.run_module("clora_inspect", run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    main()
