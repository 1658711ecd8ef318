"""Report on stderr what is wrong with a plan, and turn it into an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Collection

    from clora_inspect.config.job_request import JobRequest
    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan

UNMATCHED_TARGET = "CL101"


def typed_mistakes(plan: JobPlan, request: JobRequest) -> list[Finding]:
    """Return the findings that are mistakes in the command line: targets that were typed there and
    match nothing.

    A target of the configuration that matches nothing is a finding like any other.
    """
    if "target_modules" not in request.lora:
        return []
    return [each for each in _errors(plan) if each.code == UNMATCHED_TARGET]


def report_errors(plan: JobPlan, request: JobRequest, shown: Collection[Finding] | None = None) -> ExitCode:
    """Print on stderr what is wrong with the plan itself, and return the exit code.

    These are its own findings: targets that match nothing, and a plan without adapters. Other
    findings of rules do not fail a plan, which only shows them: `check` fails for those.

    Args:
        plan: the plan.
        request: the job as it was typed.
        shown: the findings on stdout, so that no sentence is printed twice and the allow-list
            counts; None when stdout has none.

    Returns:
        USAGE when a typed target matches nothing, FOUND for any other error of the plan, else OK.
    """
    typed = typed_mistakes(plan, request)
    errors = [each for each in _errors(plan) if shown is None or each.code in {one.code for one in shown}]
    # Mistyped targets are the reason for the other error, an empty plan.
    unmatched = [each for each in errors if each.code == UNMATCHED_TARGET]
    for finding in typed or ([] if shown is not None else unmatched or errors):
        narrate(f"error: {finding.message}" + (f"; {finding.help}" if finding.help else ""))
    if typed:
        return ExitCode.USAGE
    if errors and shown is not None:
        # Said in other words than above, because a pipe such as `clora-inspect plan | less` may
        # hide stdout.
        narrate(f"error: {'a target selects nothing' if unmatched else 'no module gets an adapter'}")
    return ExitCode.FOUND if errors else ExitCode.OK


def _errors(plan: JobPlan) -> list[Finding]:
    # Imported here because it brings msgspec, which `plan --help` does not need.
    from clora_inspect.job.finding import Severity

    return [each for each in plan.findings if each.severity is Severity.ERROR]
