"""Traffic of one rank to others: a line for each collective of an axis. Pure data."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Owner(StrEnum):
    """The part of the model that calls a collective."""

    BASE = "base"
    ADAPTER = "adapter"


class Phase(StrEnum):
    """When it is sent: for every micro-batch (the first two), or once a step."""

    FORWARD = "forward"
    BACKWARD = "backward"
    GRADIENT_REDUCTION = "gradient reduction"
    PARAMETER_GATHER = "parameter gather"

    @property
    def is_per_step(self) -> bool:
        """Return whether it happens once a step, and not for every micro-batch."""
        return self in (Phase.GRADIENT_REDUCTION, Phase.PARAMETER_GATHER)


class Traffic(msgspec.Struct, frozen=True, kw_only=True, rename={"owner": "from"}):
    """All calls of one collective by one rank in one phase.

    `bytes` is the size of what the ranks have after an all-gather, and before any other collective:
    the buffer that a profiler shows. `sent_bytes` is what one rank puts on the wire for it: in a
    ring of n ranks (n - 1)/n of the buffer, twice that for an all-reduce.
    """

    axis: str
    """A mesh axis, or several that form one group ("tp-cp")."""
    collective: str
    phase: Phase
    owner: Owner
    bytes: int
    sent_bytes: int
    calls: int


def sent(lines: Iterable[Traffic], *, owner: Owner | None = None, per_step: bool = False) -> int:
    """Return the bytes that one rank sends: for a micro-batch, or what comes once a step."""
    return sum(
        line.sent_bytes
        for line in lines
        if line.phase.is_per_step == per_step and (owner is None or line.owner is owner)
    )
