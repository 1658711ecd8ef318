"""A remedy that a message offers must be one: who follows it does not meet the message again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from advice import followed

from clora.errors import CloraError, GeometryError
from clora_inspect.pipeline import plan_job
from clora_inspect.rules import run_rules
from clora_inspect.rules.planned_job import PlannedJob

if TYPE_CHECKING:
    from pathlib import Path

    from random_job import RandomJob

    from clora_inspect.job.finding import Finding
    from clora_inspect.job.job import Job
    from clora_inspect.job.plan import JobPlan


def check_refusal(random_job: RandomJob, error: CloraError, folder: Path) -> None:
    """Follow every piece of advice of a refusal. The same refusal must not come back."""
    said = str(error)
    assert len(said) > 20
    assert "Traceback" not in said
    for advice, changed in followed(random_job, said):
        again = _refusal(changed, folder)
        assert _alike(again) != _alike(said), f"{said!r} advises {advice}, and then says {again!r}"


def check_findings(random_job: RandomJob, job: Job, plan: JobPlan, folder: Path) -> None:
    """Run every rule, and follow the advice of each finding. The job must be planned then, without
    the same finding.
    """
    # Many findings give the same advice.
    known: dict[str, list[Finding] | str] = {}
    for finding in findings_of(job, plan):
        for advice, changed in followed(random_job, f"{finding.message}: {finding.help}"):
            what = f"{finding.code} {finding.message!r} advises {advice}"
            if repr(changed) not in known:
                known[repr(changed)] = _findings_or_refusal(changed, folder)
            found = known[repr(changed)]
            assert not isinstance(found, str), f"{what}, which is refused: {found}"
            assert not any(_same(finding, other) for other in found), f"{what}, and is found again"


def _findings_or_refusal(random_job: RandomJob, folder: Path) -> list[Finding] | str:
    try:
        job = random_job.job(folder)
        return findings_of(job, plan_job(job))
    except GeometryError:
        # A linear that nothing adapted before needs another dim. The message says which.
        return []
    except CloraError as error:
        return str(error)


def findings_of(job: Job, plan: JobPlan) -> list[Finding]:
    """Return the findings of all rules about a job that will be exported and served."""
    found: dict[str, Finding] = {}
    for serve in (None, "vllm", "sglang"):
        planned = PlannedJob(plan, targets_written=job.targets_written, serve=serve, export=True)
        found |= {f"{each.code} {each.message}": each for each in run_rules(planned)}
    return list(found.values())


def _same(finding: Finding, other: Finding) -> bool:
    return (finding.code, finding.message, finding.where) == (other.code, other.message, other.where)


def _refusal(random_job: RandomJob, folder: Path) -> str:
    """Return why a job is refused; nothing when it is planned."""
    try:
        plan_job(random_job.job(folder))
    except CloraError as error:
        return str(error)
    return ""


def _alike(message: str) -> str:
    return re.sub(r"\d+", "N", message.partition(". ")[0])
