"""`verify = "tiny"`: a check that also adapts and runs a small model of the same architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.errors import CloraError
from clora_inspect.config.working_folder import working_in
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules import all_rules
from clora_inspect.verify.report import ProofResult, ProofStatus, VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clora_inspect.check.assessment import Assessed
    from clora_inspect.config.jobs import ConfiguredJob

FALLBACK = "CL501"
"""Code of a finding about a proof that has no rule of its own."""


def prove(assessed: Iterable[Assessed], notify: Callable[[str], None]) -> dict[tuple[str, str], VerifyReport]:
    """Prove each job that could be planned, and return the reports by job and layout.

    A job is proved once, on its first layout: the small model runs on one rank, so that all layouts
    of a job give the same one.
    """
    # This import brings in torch and megatron-core, which takes seconds.
    from clora_inspect.verify.job import verify
    from clora_inspect.verify.request import Request

    proofs: dict[tuple[str, str], VerifyReport] = {}
    proved: set[str] = set()
    for one in assessed:
        # A job that cannot be planned is reported as that already.
        if one.assessment is None or one.job.name in proved:
            continue
        proved.add(one.job.name)
        notify(f"verifying {one.job.name}")
        try:
            with working_in(one.job.folder):
                report = verify(Request(job=one.job.job, implementation=one.job.implementation))
            proofs[one.job.key] = _steady(report)
        except CloraError as error:
            proofs[one.job.key] = _failed(one.job, error)
    return proofs


def proof_findings(report: VerifyReport, job: ConfiguredJob) -> list[Finding]:
    """Return a finding for every proof that failed, under the code of its rule."""
    # A finding is printed under the name of its rule; proofs have names of their own.
    names = {rule.code: rule.name for rule in all_rules()}
    # These rules look at the plan, so the check has their findings already.
    found_before = {rule.code for rule in all_rules() if rule.stops_training}
    return [
        Finding(
            code=proof.code or FALLBACK,
            name=names.get(proof.code or FALLBACK, proof.proof),
            severity=Severity.ERROR,
            message=f"{proof.proof}: {proof.detail}",
            help=f"see all proofs: clora-inspect verify {job.words}",
            where=proof.where,
            job=job.name,
            layout=job.layout_name,
            location=job.location_of("model"),
        )
        for proof in report.proofs
        if proof.status is ProofStatus.FAILED and proof.code not in found_before
    ]


def _steady(report: VerifyReport) -> VerifyReport:
    """Remove what differs from run to run or between machines, as in all of a `CheckReport`."""
    proofs = tuple(msgspec.structs.replace(proof, seconds=0.0) for proof in report.proofs)
    return msgspec.structs.replace(report, versions={}, proofs=proofs)


def _failed(job: ConfiguredJob, error: CloraError) -> VerifyReport:
    """Report a job that could not be verified at all as failed: a check that was asked for proofs
    must not pass without them.
    """
    # Nothing was run: these are the values of the run that a check asks for.
    return VerifyReport(
        versions={},
        job=job.job.model,
        layout=job.job.layout.label,
        implementation=job.implementation,
        size="tiny",
        dtype="float32",
        device="cpu",
        seed=0,
        ranks=1,
        proofs=(ProofResult(proof="verify", code=FALLBACK, status=ProofStatus.FAILED, detail=str(error)),),
    )
