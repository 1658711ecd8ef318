"""Fail together: when an action fails on one rank it fails on all of them, before any rank waits in
a collective operation for the one that failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from clora.errors import CloraError
from clora_inspect.verify.model.running import ForwardFailed
from clora_inspect.verify.outcome import NotRun, Refuted

T = TypeVar("T")

# A rank's state after its action: it went well, or it ended the proof there. Else the rank sends
# its error as (module, class, message).
_WENT_WELL, _ENDED = "", "ended"


class EndedElsewhere(Exception):  # noqa: N818 - the state of this rank
    """The proof ended on another rank; that rank's own outcome says how."""


def together(everywhere: Callable[[Any], list[Any]], action: Callable[[], T]) -> T:
    """Run `action` on every rank.

    Args:
        everywhere: sends a value to all ranks and returns those of all ranks, in rank order.
        action: may raise an outcome of a proof, or a `CloraError`.

    Raises:
        CloraError: on all ranks, the error of the first rank that had one, of its class.
        EndedElsewhere: it went well here, and another rank's proof ended.
    """
    outcome: Exception | None = None
    error: CloraError | None = None
    state: Any = _WENT_WELL
    result: T | None = None
    try:
        result = action()
    except (ForwardFailed, Refuted, NotRun) as raised:
        outcome, state = raised, _ENDED
    except CloraError as raised:
        error, state = raised, (type(raised).__module__, type(raised).__name__, str(raised))
    states = everywhere(state)
    _raise_first(states, error)
    if outcome is not None:
        raise outcome
    if _ENDED in states:
        raise EndedElsewhere
    return result  # type: ignore[return-value]


def _raise_first(states: list[Any], own: CloraError | None) -> None:
    errors = [(rank, state) for rank, state in enumerate(states) if state not in (_WENT_WELL, _ENDED)]
    if not errors:
        return
    rank, (module, name, message) = errors[0]
    if own is not None and len(errors) == len(states):
        # All ranks failed alike: no rank is special, and the message needs none.
        raise own
    # An error travels as text: an exception object may not survive pickling. A rank that has not
    # imported its class raises the base class.
    raise getattr(sys.modules.get(module), name, CloraError)(f"rank {rank}: {message}") from own
