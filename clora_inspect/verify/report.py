"""What was proved, as frozen data: the same for the terminal, for JSON and for the live table.
Pure.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ProofStatus(StrEnum):
    """How one proof ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not run, and `detail` says why: never silently."""


PROOF_NAMES = (
    "base-twice",
    "surgery",
    "zero-b",
    "liveness",
    "causality",
    "merge",
    "gradients",
    "recompute",
    "layout",
    "checkpoint",
    "export",
    "twice",
)
"""What can be proved of a model that runs, in order; `placements`, of the job's own model without
values, comes before.
"""


class ProofResult(msgspec.Struct, frozen=True, kw_only=True):
    """One proof. One line of `verify -f jsonl`, printed as soon as it is known."""

    proof: str
    """Its name: `zero-b`, `liveness`, `causality`, ..."""
    code: str | None = None
    """The rule that a failure is reported under, such as `CL501`."""
    status: ProofStatus
    detail: str
    """One sentence: what was compared and what came of it; for a failure, what is wrong and what to
    do.
    """
    where: str | None = None
    """Path (and canonical part) of the first module that is to blame."""
    rank: int | None = None
    tensors: int = 0
    """Tensors compared."""
    elements: int = 0
    """Elements compared, over all tensors."""
    largest_error: float | None = None
    """Largest difference found, relative unless `detail` says otherwise; 0.0 is bit-identical."""
    bound: float | None = None
    """Largest difference that passes; None where only bit-identical does."""
    seconds: float = 0.0


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """All proofs of one job on one machine."""

    schema_version: int = msgspec.field(default=1, name="schema")
    versions: dict[str, str]
    job: str
    layout: str
    implementation: str
    """`clora` or `megatron-bridge`."""
    size: str
    """`tiny`, `layer` or `full`."""
    dtype: str
    """Of the parameters that were proved."""
    weights: str | None = None
    """The checkpoint that the base's values come from; None for drawn ones."""
    device: str
    seed: int
    ranks: int
    shrunk: tuple[str, ...] = ()
    """What was made smaller, one sentence each."""
    dropped: tuple[str, ...] = ()
    """What of the layout did not fit the ranks, one sentence each."""
    proofs: tuple[ProofResult, ...]

    @property
    def ok(self) -> bool:
        """True when at least one proof passed and none failed."""
        statuses = {proof.status for proof in self.proofs}
        return ProofStatus.PASSED in statuses and ProofStatus.FAILED not in statuses
