"""`Request`: the options of one run of `verify`, and `Listener`, its callbacks for progress. Pure,
and cheap to import: the command line reads its choices for `--help`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.job.implementation import ImplementationName
    from clora_inspect.job.job import Device, Job
    from clora_inspect.verify.report import ProofResult

Size = Literal["tiny", "layer", "full"]
Dtype = Literal["float32", "bfloat16", "float64"]

TIMEOUT_S = 180.0
"""Longest time of one proof, in seconds, that is also the longest wait of one rank for others."""

MOST_PROCS = 64
"""Largest number of local processes, each of which imports torch."""

LARGEST_SEED = 2**32 - 1
"""Generators take seeds of 64 bits, and ours are a thousand times the given one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One run of `verify`: a job, and how to prove it."""

    job: Job
    size: Size = "tiny"
    """A small model with the same kinds of layers; one layer of each kind at its true width; or the
    job's own model.
    """
    dtype: Dtype = "float32"
    """Dtype of the parameters. A model that a user's function makes keeps its own."""
    device: Device = "cpu"
    seed: int = 1234
    """Seed of all drawn values; another seed is another model."""
    timeout_s: float = TIMEOUT_S
    """Longest time of one proof, in seconds."""
    procs: int = 1
    """Local processes to start."""
    implementation: ImplementationName = "clora"
    proofs: tuple[str, ...] = ()
    """Names of the only proofs to run; all of them when empty. `placements` is always run."""
    weights: Path | None = None
    """A distributed checkpoint of the base, with `size="full"`; drawn values when None."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Callbacks for progress. By default nothing listens."""

    doing: Callable[[str], None] = lambda _: None
    """Receives a few words for what is being done."""
    proved: Callable[[ProofResult], None] = lambda _: None
    """Receives each result as soon as it is known."""
