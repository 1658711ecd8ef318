"""`Guarded`: an implementation whose exceptions refute the proof that called it.

An exception here would also stop the user's training run, so it is a failed proof and no crash of
`verify`. An error of this library (`CloraError`) is a refusal with a message of its own and passes
through.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from clora.errors import CloraError, described
from clora_inspect.verify.outcome import Refuted

if TYPE_CHECKING:
    from clora_inspect.verify.implementation.protocol import Implementation

P = ParamSpec("P")
R = TypeVar("R")


class Guarded:
    """The implementation `inner`, with each method guarded."""

    def __init__(self, inner: Implementation) -> None:
        self.name = inner.name
        self.is_ours = inner.is_ours
        self.merges = inner.merges
        self.exports = inner.exports
        self.apply = _guarded(inner.apply, "Surgery", "The job would stop before its first step.")
        self.apply_again = _guarded(
            inner.apply_again, "A second surgery", "A script that applies it again would stop there."
        )
        self.merge = _guarded(inner.merge, "Merging", "The adapters cannot be served merged.")
        self.unmerge = _guarded(inner.unmerge, "Unmerging", "The base weights cannot be restored.")
        self.save = _guarded(inner.save, "Saving the adapters", "The job would stop at its first checkpoint.")
        self.load = _guarded(inner.load, "Loading the adapters", "The job could not be resumed.")


def _guarded(method: Callable[P, R], action: str, consequence: str) -> Callable[P, R]:
    @wraps(method)
    def call(*args: P.args, **options: P.kwargs) -> R:
        try:
            return method(*args, **options)
        except (CloraError, Refuted):
            raise
        # Anything else, whatever it is: a foreign implementation may raise any exception.
        except Exception as error:
            raise Refuted(f"{action} raises {described(error)}. {consequence}") from error

    return call
