"""Print a plan's errors on stderr, and turn them into an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan

UNMATCHED_TARGET = "CL101"


def narrate_errors(plan: JobPlan) -> ExitCode:
    """Print the errors among the findings of `plan`, and return the exit code of the command.

    They go to stderr because a pipe such as `clora-inspect plan -f json | jq` hides stdout.

    Returns:
        USAGE when a target of the user matches nothing, FOUND for any other error, else OK.
    """
    # Imported here because it brings msgspec, which `plan --help` does not need.
    from clora_inspect.job.finding import Severity

    errors = [finding for finding in plan.findings if finding.severity is Severity.ERROR]
    unmatched = [finding for finding in errors if finding.code == UNMATCHED_TARGET]
    # Mistyped targets are the reason for most other errors, such as an empty plan.
    for finding in unmatched or errors:
        narrate(f"error: {finding.message}" + (f"; {finding.help}" if finding.help else ""))
    if unmatched:
        return ExitCode.USAGE
    return ExitCode.FOUND if errors else ExitCode.OK
