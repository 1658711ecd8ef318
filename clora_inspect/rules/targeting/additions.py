"""Say how to adapt linears that a job leaves out: by more targets, or by fewer exclusions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.patterns import PatternSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.rules.linears import Linear
    from clora_inspect.rules.planned_job import PlannedJob


def written_list(job: PlannedJob) -> str:
    """Return the field that decides what is adapted: `target_modules` or `exclude_modules`."""
    return "exclude_modules" if job.patterns["exclude_modules"] else "target_modules"


def to_adapt(job: PlannedJob, aim: str, linears: Iterable[Linear], targets: Iterable[str]) -> str:
    """Return a fix that adapts `linears`.

    Args:
        job: the job.
        aim: a few words that begin the fix, such as "to adapt them".
        linears: linears without an adapter.
        targets: the targets that select them.
    """
    exclusions = PatternSet(job.patterns["exclude_modules"], "exclude_modules")
    # With exclusions a job has no targets, and may not have any.
    blocking = {entry: None for one in linears for entry in exclusions.matching(one.local_path, *one.names)}
    if blocking:
        return f"{aim} remove from exclude_modules: {', '.join(blocking)}"
    return f"{aim} add: {', '.join(targets)}"
