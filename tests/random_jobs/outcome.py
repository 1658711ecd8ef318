"""Try one random job: it is planned and everything holds of its plan, or it is refused in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import properties
import remedies

from clora.errors import CloraError
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from pathlib import Path

    from random_job import RandomJob

RIGHT = "right"


def outcome(random_job: RandomJob, folder: Path, *, follow_findings: bool) -> str:
    """Return `RIGHT`, or the name of the error by which the job is refused.

    Args:
        random_job: the job.
        folder: where its config.json is written.
        follow_findings: whether to follow the advice of each finding, which plans the job again.
    """
    try:
        job = random_job.job(folder)
        plan = plan_job(job)
    except CloraError as error:
        remedies.check_refusal(random_job, error, folder)
        return type(error).__name__
    properties.check_against_models(job, plan)
    properties.check_targets(job, plan)
    properties.check_written(plan)
    properties.check_snapshot(job, plan)
    if follow_findings:
        remedies.check_findings(random_job, job, plan, folder)
    else:
        remedies.findings_of(job, plan)
    return RIGHT
