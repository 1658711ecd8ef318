"""The proofs, in the order in which they are run: what a later one relies on is proved by an
earlier one.

Each file has one function that takes the `ModelUnderTest` and returns `Proved`, or raises `Refuted` or
`NotRun`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clora_inspect.verify.model.model_under_test import ModelUnderTest
    from clora_inspect.verify.outcome import Proved


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One thing that must hold."""

    name: str
    code: str
    """The rule that its failure is reported under."""
    module: str
    """File of this package; its function `prove` is the proof."""
    streamed: bool = False
    """Whether it is also run layer by layer at true width."""
    runs: bool = True
    """Whether it runs the adapted model: it says nothing new of one whose forward raises."""

    @property
    def prove(self) -> Callable[[ModelUnderTest], Proved]:
        """The proof itself."""
        function: Callable[[ModelUnderTest], Proved] = import_module(f"{__name__}.{self.module}").prove
        return function


PROOFS = (
    Proof(name="base-twice", code="CL506", module="base_twice", streamed=True),
    Proof(name="surgery", code="CL502", module="surgery", runs=False, streamed=True),
    Proof(name="zero-b", code="CL501", module="zero_b", streamed=True),
    Proof(name="liveness", code="CL503", module="liveness", streamed=True),
    Proof(name="causality", code="CL504", module="causality", streamed=True),
    Proof(name="merge", code="CL505", module="merge", streamed=True),
    Proof(name="gradients", code="CL507", module="gradients"),
    Proof(name="recompute", code="CL508", module="recompute"),
    Proof(name="layout", code="CL509", module="layout"),
    Proof(name="checkpoint", code="CL510", module="checkpoint", runs=False),
    Proof(name="export", code="CL511", module="export", runs=False),
    Proof(name="twice", code="CL512", module="twice", runs=False),
)
