"""What is asked of the planner: a job as JSON. Pure data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.job.job import Job, lora_fields
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A job, in values that JSON has."""

    model: str
    lora: dict[str, Any]
    """Fields of `CanonicalLoRA`."""
    layout: Layout
    model_overrides: dict[str, Any] = {}
    targets_written: bool = False
    folder: str = ""
    """The folder of the configuration, in which the user's own functions and files are found; empty
    for this one.
    """

    def job(self) -> Job:
        """The job itself.

        Raises:
            CloraError: a value that cannot be.
        """
        return Job(
            model=self.model,
            lora=CanonicalLoRA(**self.lora),
            layout=self.layout,
            model_overrides=self.model_overrides,
            targets_written=self.targets_written,
        )


def request_of(job: Job, folder: str = "") -> PlanRequest:
    """`job` as a request."""
    return PlanRequest(
        model=job.model,
        lora=lora_fields(job.lora),
        layout=job.layout,
        model_overrides=dict(job.model_overrides),
        targets_written=job.targets_written,
        folder=folder,
    )


def request_of_plan(plan: JobPlan) -> PlanRequest:
    """The request that a saved plan came of."""
    return PlanRequest(
        model=plan.model_source,
        lora=plan.lora.fields(),
        layout=plan.layout,
        model_overrides=plan.model.overrides or {},
        targets_written=True,
    )
