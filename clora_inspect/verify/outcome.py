"""How a proof ends on one rank. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """It holds: what was compared, and how close it came."""

    detail: str
    tensors: int = 0
    elements: int = 0
    largest_error: float | None = None
    bound: float | None = None


class Refuted(Exception):  # noqa: N818 - the outcome of a proof, not an error of ours
    """It does not hold. The message is for the user: what is wrong, and what it means."""

    def __init__(
        self,
        detail: str,
        *,
        where: str | None = None,
        largest_error: float | None = None,
        bound: float | None = None,
        stops: bool = False,
    ) -> None:
        super().__init__(detail)
        self.stops = stops
        """Nothing further can be asked of such a model."""
        self.where = where
        self.largest_error = largest_error
        self.bound = bound


class NotRun(Exception):  # noqa: N818 - as above
    """It cannot be asked of this job on this machine; the message says why."""
