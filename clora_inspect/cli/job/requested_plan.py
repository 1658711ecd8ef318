"""Get the plan of the JOB that a command names: plan the model, or read a saved plan.

Reading a saved plan imports neither torch nor megatron-core.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.job.chosen_jobs import one_job
from clora_inspect.cli.options.configuration import configuration_of
from clora_inspect.cli.options.display import display_of
from clora_inspect.cli.stdio.narration import narrate

if TYPE_CHECKING:
    from clora_inspect.cli.options.workload import WorkloadRequest
    from clora_inspect.config.job_request import JobRequest
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.job.workload import Workload
    from clora_inspect.machine.quiet import Noise

_OUTPUT = "output"
"""`origin` of a `quiet.Message` that a function of the user, or compiled code, printed."""


@dataclass(frozen=True, slots=True)
class RequestedPlan:
    """The plan of a JOB, and where it comes from."""

    plan: JobPlan
    job: ConfiguredJob | None = None
    """None for a saved plan."""
    configuration: Configuration | None = None
    """None for a saved plan, which is looked at without one."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths that the plan is made from, beside JOB itself."""
        return self.job.sources if self.job is not None else ()


def requested_plan(
    context: click.Context, request: JobRequest, workload: WorkloadRequest | None = None
) -> RequestedPlan:
    """Return the plan of the job that `request` names, with the memory that `workload` asks for.

    Raises:
        CloraError: the name means nothing, the job cannot be planned, or the file is damaged.
        UsageError: options that would change a saved plan.
    """
    from clora_inspect.config.job_name import saved_file

    # The file comes before the configuration: a saved plan needs none, and can be looked at in a
    # folder whose configuration is broken.
    saved = saved_file(request.name)
    if saved is None or saved.holds != "saved plan":
        display = display_of(context)
        configuration = configuration_of(context)
        job = one_job(configuration, request, display)
        job = workload.applied_to(job) if workload is not None else job
        wanted = job.full_workload if workload is not None and workload.is_wanted else None
        if wanted is not None and job.batch_note is not None and not display.quiet:
            narrate(job.batch_note)
        return RequestedPlan(_plan(job, wanted, verbose=display.verbose), job, configuration)
    if request.changes_anything:
        raise click.UsageError(
            f"{request.name} is a saved plan: options of the job cannot change it. Plan the model again, with them."
        )
    plan = saved.plan()
    if workload is not None and (workload.changes_anything or (workload.memory and not plan.workload)):
        raise click.UsageError(
            f"{request.name} is a saved plan{'' if plan.workload else ' without memory'}: memory is counted when the "
            "model is planned. Plan the model again, with --memory."
        )
    return RequestedPlan(plan)


def _plan(configured: ConfiguredJob, workload: Workload | None, *, verbose: bool) -> JobPlan:
    from clora_inspect.config.working_folder import working_in
    from clora_inspect.machine.quiet import quiet
    from clora_inspect.pipeline import slow_notice

    notice = slow_notice(configured.job)
    if notice is not None:
        narrate(notice)
    noise = None
    try:
        with quiet() as noise, working_in(configured.folder):
            from clora_inspect.pipeline import plan_job

            return plan_job(configured.job, workload)
    finally:
        # Outside of `quiet`, which collects stderr as well.
        if noise is not None:
            _narrate_noise(noise, verbose=verbose, failed=sys.exc_info()[0] is not None)


def _narrate_noise(noise: Noise, *, verbose: bool, failed: bool) -> None:
    """Print what was collected while models were built.

    With --verbose this is every message. After a failure it is what the user's function printed,
    which often is the reason.
    """
    for message in noise.messages:
        if verbose or (failed and message.origin == _OUTPUT):
            times = f" ({message.count} times)" if message.count > 1 else ""
            narrate(f"{message.origin}{times}: {message.text}")
