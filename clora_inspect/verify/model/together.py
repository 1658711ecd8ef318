"""Fail together: an exception on one rank is one on all of them, before anybody waits in a
collective for the one that failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from clora.errors import CloraError
from clora_inspect.verify.model.running import ForwardFailed
from clora_inspect.verify.outcome import NotRun, Refuted

T = TypeVar("T")

WELL, ENDED = "", "ended"
"""What a rank says of its action: it went well, or it ended its proof, whose outcome is this rank's
own. Else the error.
"""


class Elsewhere(Exception):  # noqa: N818 - a state of this rank
    """Another rank failed; its own outcome says why."""


def together(everywhere: Callable[[Any], list[Any]], action: Callable[[], T]) -> T:
    """Run `action` on every rank.

    Raises:
        CloraError: on all ranks, what the first rank raised that met one, of its class.
        Elsewhere: where it went well and another rank's proof ended.
    """
    ended: Exception | None = None
    error: CloraError | None = None
    said: Any = WELL
    result: T | None = None
    try:
        result = action()
    except (ForwardFailed, Refuted, NotRun) as outcome:
        ended, said = outcome, ENDED
    except CloraError as raised:
        error, said = raised, (type(raised).__module__, type(raised).__name__, str(raised))
    heard = everywhere(said)
    _raise_first(heard, error)
    if ended is not None:
        raise ended
    if ENDED in heard:
        raise Elsewhere
    return result  # type: ignore[return-value]


def _raise_first(heard: list[Any], own: CloraError | None) -> None:
    errors = [(rank, each) for rank, each in enumerate(heard) if each not in (WELL, ENDED)]
    if not errors:
        return
    rank, (module, name, message) = errors[0]
    if own is not None and len(errors) == len(heard):
        raise own
    raise getattr(sys.modules.get(module), name, CloraError)(f"rank {rank}: {message}") from own
