"""How a proof ends on one rank: it returns `Proved`, or raises `Refuted` or `NotRun`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from clora.errors import CloraError, described


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
    lengths: tuple[int, int] | None = None
    """Tokens in a row, and in the states between stages. Only of `handover`."""


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


class BrokenOffError(CloraError):
    """A module of another implementation raised where a proof looked at it, on one rank. The other
    ranks may wait for this one, so the proof ends on all of them.

    The message has the module's path in its first line, which may be empty, and the detail below:
    a rank in another process sends nothing but the text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.where, _, self.detail = text.partition("\n")


def broken_off(error: BaseException) -> str:
    """Return the detail of a proof that was ended by an exception of another implementation."""
    return (
        f"Looking at the adapted modules raises {described(error)}. They are not what canonical LoRA "
        "makes, so whatever reads them, such as a checkpoint or a merge, would stop there."
    )


def place_of(error: BaseException) -> str | None:
    """Return the path of the adapter that was being looked at; None where it is not known.

    Every function that looks at one adapter has it in a variable `site` or `placement`.
    """
    found = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        for name in ("site", "placement"):
            at = getattr(trace.tb_frame.f_locals.get(name), "at", None)
            found = at if isinstance(at, str) else found
        trace = trace.tb_next
    return found
