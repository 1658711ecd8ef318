"""`PlanRequest`: a job in plain values, which the what-if form changes and a child plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.job import Job, lora_fields
from clora_inspect.job.layout import Layout
from clora_inspect.job.workload import Workload

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A job in values that JSON has."""

    model: str
    lora: dict[str, Any]
    """Arguments of `CanonicalLoRA`."""
    layout: Layout
    model_overrides: dict[str, Any] = {}
    targets_written: bool = False
    planned_by: ImplementationName = "clora"
    workload: Workload = Workload()
    """The micro-batches that its memory is counted for."""
    folder: str = ""
    """The folder of the configuration, where the user's own functions and files are found. Empty
    for the current folder.
    """

    def job(self) -> Job:
        """Return the job.

        Raises:
            CloraError: `CanonicalLoRA` or `Job` refuses a value.
        """
        return Job(
            model=self.model,
            lora=CanonicalLoRA(**self.lora),
            layout=self.layout,
            model_overrides=self.model_overrides,
            targets_written=self.targets_written,
            planned_by=self.planned_by,
        )


def request_of(job: Job, folder: str = "", workload: Workload | None = None) -> PlanRequest:
    """Return `job` as a request."""
    return PlanRequest(
        model=job.model,
        lora=lora_fields(job.lora),
        layout=job.layout,
        model_overrides=dict(job.model_overrides),
        targets_written=job.targets_written,
        planned_by=job.planned_by,
        workload=workload or Workload(),
        folder=folder,
    )


def request_of_plan(plan: JobPlan) -> PlanRequest:
    """Return the request that makes a saved plan again."""
    return PlanRequest(
        model=plan.model_source,
        lora=plan.lora.fields(),
        # A plan without experts has no use for its etp: what-if leaves it unset.
        layout=plan.layout if plan.has_experts else msgspec.structs.replace(plan.layout, etp=None),
        model_overrides=plan.model.overrides or {},
        # A plan does not tell who wrote its targets. If the user did, one that matches nothing is
        # an error; taking it for a default would hide that.
        targets_written=True,
        planned_by=plan.planned_by,
        workload=plan.workload or Workload(),
    )
