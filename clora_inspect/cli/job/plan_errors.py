"""What a plan's findings mean for the exit code, told on stderr: a pipe to `jq` must not swallow
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan

UNMATCHED_TARGET = "CL101"


def verdict(plan: JobPlan) -> ExitCode:
    """OK; USAGE for a target of the user's that matches nothing; FOUND for any other error."""
    # Imported here: findings are msgspec's, and `--help` waits for nothing.
    from clora_inspect.job.finding import Severity

    errors = [finding for finding in plan.findings if finding.severity is Severity.ERROR]
    mistyped = [finding for finding in errors if finding.code == UNMATCHED_TARGET]
    # A plan that is empty because its targets are mistyped needs no second message.
    for finding in mistyped or errors:
        narrate(f"error: {finding.message}" + (f"; {finding.help}" if finding.help else ""))
    if mistyped:
        return ExitCode.USAGE
    return ExitCode.FOUND if errors else ExitCode.OK
