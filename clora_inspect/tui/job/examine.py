"""Run the rules and compare with snapshots for the interface, so that its screens import neither.

Imports stand inside the functions, so that the first frame does not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.tui.job.opening import Opening


NOT_CONFIGURED = "Snapshots are kept of configured jobs, and this is none. Write one with: clora-inspect config init"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """Findings of a plan, and its drift from the snapshot."""

    findings: tuple[Finding, ...] = ()
    drift: Drift | None = None
    snapshot_note: str = ""


def examine(opening: Opening, plan: JobPlan) -> Examined:
    """Return the findings of a check and the drift from the accepted snapshot. Nothing is written.

    A job that is not configured has no snapshot, and only the findings of the rules.
    """
    from clora_inspect.check.plan_findings import wrote_targets
    from clora_inspect.rules import run_rules
    from clora_inspect.rules.planned_job import PlannedJob

    job, configuration = opening.job, opening.configuration
    if job is None or job.configuration is None or configuration is None:
        written = job.job.targets_written if job else wrote_targets(plan)
        implementation = job.implementation if job else plan.planned_by
        found = run_rules(
            PlannedJob(
                plan=plan,
                targets_written=written,
                implementation=implementation,
                gpu_memory_gib=opening.gpu_memory_gib,
            )
        )
        return Examined(findings=_in_order(found), snapshot_note=NOT_CONFIGURED)
    return _examine_configured(job, configuration, plan)


def _examine_configured(job: ConfiguredJob, configuration: Configuration, plan: JobPlan) -> Examined:
    """Return what `clora-inspect check` says of this plan, but leave no snapshot to be reviewed."""
    import datetime as dt

    from clora_inspect.check.allow import divide
    from clora_inspect.check.assessment import assess, selection_of
    from clora_inspect.check.snapshots import compare_with_snapshot

    # `offer=False` writes no pending snapshot: looking at a job must leave no files.
    assessed = assess(job, plan, configuration, selection_of(configuration))
    store = configuration.store
    # Looking at a job is no check: a missing snapshot is no error, and no `.new` file is written.
    compared = compare_with_snapshot(job, assessed.snapshot, store, required=False, offer=False)
    divided = divide(
        (*assessed.findings, *compared.findings), configuration.settings.allow, dt.datetime.now(tz=dt.UTC).date()
    )
    name = store.name(store.path(*job.key))
    note = f"There is no snapshot {name} yet. Press a to accept this plan as the first."
    # A finding without a drift says why the snapshot cannot be compared.
    if compared.findings and compared.drift is None:
        note = compared.findings[0].message
    return Examined(findings=_in_order(divided.uncovered), drift=compared.drift, snapshot_note=note)


def examine_what_if(opening: Opening | None, plan: JobPlan) -> Examined:
    """Return the findings of a plan that was only tried. Its targets were typed into the form, so
    one that matches nothing is a mistake.
    """
    from clora_inspect.rules import run_rules
    from clora_inspect.rules.planned_job import PlannedJob

    job = opening.job if opening else None
    planned = PlannedJob(
        plan=plan,
        targets_written=True,
        implementation=job.implementation if job else "clora",
        bridge_release=job.bridge_release if job else None,
        serve=job.serve if job else None,
        export=bool(job and job.export),
        gpu_memory_gib=job.gpu_memory_gib if job else None,
    )
    return Examined(findings=_in_order(run_rules(planned)))


def _in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings, the worst first."""
    from clora_inspect.job.finding import Severity

    order = list(Severity)
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def accept(opening: Opening, plan: JobPlan, chosen: Callable[[str], bool] | None = None) -> Path:
    """Make the plan the job's snapshot, and return the file that was written.

    Args:
        opening: the job.
        plan: its plan.
        chosen: tells whether a place is accepted; elsewhere the snapshot stays as it is. None
            accepts all.

    Raises:
        CloraError: the job is not configured, or the file cannot be read or written.
    """
    from clora.errors import CloraError
    from clora_inspect.snapshot.partial import accepted_in_part
    from clora_inspect.snapshot.record import take

    job, configuration = opening.job, opening.configuration
    if job is None or job.configuration is None or configuration is None:
        raise CloraError(NOT_CONFIGURED)
    store = configuration.store
    now = take(plan, job.name)
    # Places that are not chosen keep their adapters from the file, so it is read only then.
    before = store.read(*job.key) if chosen else None
    return store.accept(*job.key, accepted_in_part(before, now, chosen) if before and chosen else now)


def rule_page(code: str) -> str | None:
    """Return the page of a rule, in Markdown; None when there is no such rule."""
    from clora_inspect.rules import all_rules

    return next((rule.page() for rule in all_rules() if rule.code == code), None)
