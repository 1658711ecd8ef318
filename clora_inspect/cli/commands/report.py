"""`clora-inspect report JOB`: one HTML page about a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.job.plan_errors import report_errors
from clora_inspect.cli.job.requested_plan import requested_plan
from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.options.workload import WorkloadRequest, workload_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.config.job_request import JobRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.api.report import Report
    from clora_inspect.cli.job.requested_plan import RequestedPlan
    from clora_inspect.config.key_path import KeyPath
    from clora_inspect.exit_code import ExitCode
    from clora_inspect.verify.report import VerifyReport


@click.command(cls=Command)
@job_options
@workload_options
@click.option(
    "--verify",
    cls=Option,
    group="Verify",
    type=click.Choice(["off", "tiny"]),
    help="Also prove the surgery on a shrunken model; default: off.",
)
@click.option(
    "--no-snapshot", cls=Option, group="Snapshot", is_flag=True, help="Do not compare with the accepted snapshot."
)
@output_options(("html",), {})
@click.option("--no-progress", is_flag=True, cls=Option, group="Output", help="Do not show what is being done.")
@config_options
@display_options
@click.pass_context
def report(
    context: click.Context,
    *,
    request: JobRequest,
    workload: WorkloadRequest,
    verify: str | None,
    no_snapshot: bool,
    output: Output,
    no_progress: bool,
) -> ExitCode:
    r"""Write one HTML page about JOB: what is adapted, where parameters go, what each rank holds
    and what the rules found. The page loads nothing, and is read without this tool.

    The exit status is that of plan, and 1 where a proof failed.

    \b
    clora-inspect report llama3-8b --tp 4 --pp 2 -o report.html
    clora-inspect report llama3-8b --memory --verify tiny -o report.html
    clora-inspect report plan.json -o report.html
    """
    from clora_inspect.cli.stdio.progress import progress

    display = display_of(context)
    output.keep(request.name, request.lora_name)
    made = requested_plan(context, request, workload)
    output.keep(*made.sources)
    with progress(display, wanted=not no_progress) as notify:
        about = _report_on(made, context, request, verify, notify, snapshots=not no_snapshot)
        page = about.to("html")
    output.write(lambda _look: page, display)
    return max(report_errors(made.plan, request), _report_proofs(about.proofs))


def _report_proofs(proofs: VerifyReport | None) -> ExitCode:
    """Print on stderr what was not proved, and return the exit code, which is that of `verify`."""
    from clora_inspect.exit_code import ExitCode
    from clora_inspect.verify.report import ProofStatus

    if proofs is None or proofs.ok:
        return ExitCode.OK
    failed = [each for each in proofs.proofs if each.status is ProofStatus.FAILED]
    for proof in failed:
        narrate(f"error: {proof.proof}: {proof.detail}")
    if not failed:
        narrate("error: nothing was proved: every proof was skipped")
    return ExitCode.FOUND


def _report_on(
    made: RequestedPlan,
    context: click.Context,
    request: JobRequest,
    verify: str | None,
    notify: Callable[[str], None],
    *,
    snapshots: bool,
) -> Report:
    from clora_inspect.api.inspection import report_on_plan, report_on_saved

    if made.job is None:
        if verify == "tiny":
            raise click.UsageError(
                f"{request.name} is a saved plan, and --verify builds the model: name the job or the model."
            )
        return report_on_saved(made.plan, request.name or "")
    keys: dict[KeyPath, tuple[str, Any]] = {("check", "verify"): ("--verify", verify)} if verify else {}
    return report_on_plan(
        made.plan,
        made.job,
        configuration_of(context, keys),
        # A job that is not configured has no snapshot to miss.
        snapshots=snapshots and made.job.configuration is not None,
        proofs=True,
        notify=notify,
    )
