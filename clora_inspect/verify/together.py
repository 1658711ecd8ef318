"""Fail together: an exception on one rank is one on all of them, before anybody waits in a collective for the one that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from clora_inspect.verify.outcome import NotRun, Refuted
from clora_inspect.verify.running import ForwardFailed

T = TypeVar("T")


class Elsewhere(Exception):  # noqa: N818 - a state of this rank
    """Another rank failed; its own outcome says why."""


def together(everywhere: Callable[[bool], list[bool]], action: Callable[[], T]) -> T:
    """Run `action`; raise `Elsewhere` where it went well and another rank failed."""
    try:
        result = action()
    except (ForwardFailed, Refuted, NotRun):
        everywhere(False)
        raise
    if not all(everywhere(True)):
        raise Elsewhere
    return result
