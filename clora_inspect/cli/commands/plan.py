"""`clora-inspect plan JOB`: show what the surgery would do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import click

from clora_inspect.cli.job.plan_errors import UNMATCHED_TARGET, report_errors, typed_mistakes
from clora_inspect.cli.job.requested_plan import requested_plan
from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.configuration import config_options
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.options.view import ViewRequest, view_options
from clora_inspect.cli.options.workload import WorkloadRequest, workload_options
from clora_inspect.config.job_request import JobRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.cli.job.requested_plan import RequestedPlan
    from clora_inspect.exit_code import ExitCode
    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan


@click.command(cls=Command)
@job_options
@workload_options
@click.option(
    "--compare",
    type=click.Choice(["megatron-bridge"]),
    cls=Option,
    group="Memory",
    help="Show what a rank would send and need with the adapters of the installed Megatron-Bridge.",
)
@view_options
@output_options(("text", "json"), {".json": "json"})
@config_options
@display_options
@click.pass_context
def plan(
    context: click.Context,
    *,
    request: JobRequest,
    workload: WorkloadRequest,
    compare: Literal["megatron-bridge"] | None,
    view: ViewRequest,
    output: Output,
) -> ExitCode:
    r"""Show which modules of JOB get which adapters, on every rank. Changes nothing.

    \b
    clora-inspect plan llama3-8b --tp 4 --pp 2
    clora-inspect plan deepseek-v3 --tp 8 --pp 16 --ep 64 --etp 1 -o plan.json
    clora-inspect plan plan.json --only missed
    clora-inspect plan llama3-70b --tp 8 --memory --seq-length 8192
    clora-inspect plan llama3-70b --tp 8 --compare megatron-bridge
    """
    display = display_of(context)
    beside, wanted = None, workload
    output.keep(request.name, request.lora_name)
    if compare is not None:
        if output.format == "json" or request.implementation is not None:
            raise click.UsageError(
                "--compare shows clora's adapters and those of Megatron-Bridge in one text. For the JSON of either use "
                "--implementation."
            )
        wanted = replace(workload, memory=True)
        # First: it may not be installed.
        beside = requested_plan(context, replace(request, implementation=compare), wanted).plan
        request = replace(request, implementation="clora")
    made = requested_plan(context, request, wanted)
    output.keep(*made.sources)
    shown: list[Finding] | None = None
    if output.format == "json":
        from clora_inspect.formats.plan.json import render as render_json

        output.write(lambda _look: render_json(made.plan), display)
    else:
        from clora_inspect.formats.plan.text import render

        chosen = replace(view.resolved(findings_only=display.quiet), memory=workload.memory, beside=beside)
        found = _findings(made)
        if display.quiet:
            found = [each for each in found if _is_loud(each, made.plan)]
        if output.path is None:
            if typed_mistakes(made.plan, request):
                # A mistake in the command line is said once, on stderr.
                found = [each for each in found if each.code != UNMATCHED_TARGET]
            shown = found
        output.write(lambda look: render(made.plan, look, chosen, findings=found, more=_more(made, found)), display)
    # After the plan, so that on a terminal the errors are what is read last.
    return report_errors(made.plan, request, shown)


def _findings(made: RequestedPlan) -> list[Finding]:
    """Return what a check would find in the plan, except what needs its snapshot."""
    from clora_inspect.check.plan_findings import plan_findings, saved_plan_findings

    if made.job is None or made.configuration is None:
        return list(saved_plan_findings(made.plan))
    return list(plan_findings(made.plan, made.job, made.configuration))


def _is_loud(finding: Finding, plan: JobPlan) -> bool:
    """Return whether --quiet prints the finding: it is more than a note of a rule."""
    from clora_inspect.job.finding import Severity

    own = {each.code for each in plan.findings}
    return finding.severity is not Severity.INFO or finding.code in own


def _more(made: RequestedPlan, shown: Sequence[Finding]) -> list[str]:
    """Return the commands that show what the plan does not."""
    lines = []
    if shown:
        lines.append(f"Explain a finding: clora-inspect explain {shown[0].code}")
    if made.job is not None and made.job.configuration is not None:
        lines.append(f"Compare with the snapshot as well: clora-inspect check {made.job.words}")
    return lines
