"""`VerifyReport`: the results of the proofs as frozen data, for the terminal, for JSON and for the
interface alike. Pure.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ProofStatus(StrEnum):
    """How one proof ended, over all ranks."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not run; `detail` always says why."""


class ProofResult(msgspec.Struct, frozen=True, kw_only=True):
    """One proof. `verify -f jsonl` prints it as one line as soon as it is known."""

    proof: str
    """Name of the proof, for example `zero-b`."""
    code: str | None = None
    """Code of the rule that a failure is reported under, for example `CL501`."""
    status: ProofStatus
    detail: str
    """One sentence: what was compared and what came of it; for a failure, what is wrong and what to
    do.
    """
    where: str | None = None
    """Path (and canonical part) of the first module to blame."""
    rank: int | None = None
    """First rank on which it failed."""
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
    """Dtype of the parameters of the model that was run."""
    weights: str | None = None
    """Checkpoint with the base's values; None for drawn values."""
    device: str
    seed: int
    ranks: int
    shrunk: tuple[str, ...] = ()
    """A sentence for each thing that was made smaller than in the job."""
    dropped: tuple[str, ...] = ()
    """A sentence for each part of the layout that the ranks could not show."""
    proofs: tuple[ProofResult, ...]

    @property
    def ok(self) -> bool:
        """True if at least one proof passed and none failed. A report of skipped proofs alone is
        not good: nothing was proved.
        """
        statuses = {proof.status for proof in self.proofs}
        return ProofStatus.PASSED in statuses and ProofStatus.FAILED not in statuses


class ReportEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of `verify -f jsonl`, about the whole run, for readers of lines."""

    ranks: int
    shrunk: tuple[str, ...]
    dropped: tuple[str, ...]
