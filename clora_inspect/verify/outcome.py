"""How a proof ends on one rank: it returns `Proved`, or raises `Refuted` or `NotRun`. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """The proof holds. The fields go into the report."""

    detail: str
    """One sentence for the report: what was compared and what came of it."""
    tensors: int = 0
    """Tensors compared."""
    elements: int = 0
    """Elements compared, over all tensors."""
    largest_error: float | None = None
    """Largest difference found; 0.0 is bit-identical."""
    bound: float | None = None
    """Largest difference that passes."""


class Refuted(Exception):  # noqa: N818 - the outcome of a proof, not an error of ours
    """The proof does not hold. The message says what is wrong, and what it means for a run."""

    def __init__(
        self,
        detail: str,
        *,
        where: str | None = None,
        largest_error: float | None = None,
        bound: float | None = None,
        cannot_run: bool = False,
    ) -> None:
        """Make the outcome.

        Args:
            detail: the message.
            where: path (and canonical part) of the first module to blame.
            largest_error: largest difference found.
            bound: largest difference that passes.
            cannot_run: the adapted model cannot run, so proofs that run it would say nothing.
        """
        super().__init__(detail)
        self.where = where
        self.largest_error = largest_error
        self.bound = bound
        self.cannot_run = cannot_run


class NotRun(Exception):  # noqa: N818 - as above
    """The proof says nothing about this job on this machine; the message says why."""
