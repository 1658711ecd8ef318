"""Run a random job: `clora-inspect verify` with a small model that has values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outcome import RIGHT
from remedies import findings_of

from clora.errors import CloraError
from clora_inspect.pipeline import plan_job
from clora_inspect.rules import all_rules
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

    from random_job import RandomJob

CANNOT_TRAIN = "cannot train"
NEVER_LEARNS = "an adapter never learns"


def is_proved(random_job: RandomJob, folder: Path, *, procs: int = 1, proofs: tuple[str, ...] = ()) -> str:
    """Return `RIGHT` if no proof fails, else why none was run.

    A proof that fails on a job that trains is a fault: of surgery, or of the proof.
    """
    try:
        job = random_job.job(folder)
        plan = plan_job(job)
    except CloraError as error:
        return type(error).__name__
    if not plan.totals.placements:
        return "nothing adapted"
    try:
        report = verify(Request(job=job, procs=procs, proofs=proofs))
    except CloraError as error:
        return f"not verified: {type(error).__name__}"
    stopping = {rule.code for rule in all_rules() if rule.stops_training}
    failed = [proof for proof in report.proofs if proof.status is ProofStatus.FAILED]
    if any(proof.code in stopping for proof in failed):
        return CANNOT_TRAIN
    if failed and "CL422" in {finding.code for finding in findings_of(job, plan)}:
        # Each proof that looks at gradients says it too, and no proof says anything else.
        assert all("zero gradient" in proof.detail for proof in failed), failed
        return NEVER_LEARNS
    assert not failed, failed
    return RIGHT
