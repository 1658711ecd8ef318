"""Run a check: jobs -> plans -> findings and drift -> allow-list -> report. Read this first."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.check.allow import divide, entry_findings
from clora_inspect.check.assessment import Assessed, assess_configured, selection_of
from clora_inspect.check.checkpoints import Loadable, compare_with_checkpoint
from clora_inspect.check.planning import cache_of, refused
from clora_inspect.check.proofs import proof_findings, prove
from clora_inspect.check.recorded import RecordedRun, compare_with_run
from clora_inspect.check.report import CheckedJob, CheckReport, Narration
from clora_inspect.check.rule_names import rule_problems
from clora_inspect.check.snapshots import Compared, compare_with_snapshot, orphans
from clora_inspect.config.errors import ConfigError
from clora_inspect.config.working_folder import working_in
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.finding import Severity
from clora_inspect.machine.git_repository import folder_in_repository
from clora_inspect.rules import all_rules
from clora_inspect.snapshot.store import Store
from clora_inspect.sources.model_name import runs_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Finding
    from clora_inspect.verify.report import VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """The choices that only the command line has; everything else is in the settings."""

    whole: bool
    """True if all configured jobs are checked. Only then is it known which snapshots have no job,
    and which entries of the allow-list are unused.
    """
    snapshots: bool = True
    """True to compare with snapshots."""
    offer: bool = True
    """True to write snapshots that differ as `LAYOUT.json.new`, to be reviewed; never in CI."""
    allow: bool = True
    """False to report also what the allow-list covers."""
    cache: bool = True
    proofs: bool = True
    """False to prove nothing, whatever the settings say."""
    code: bool = True
    """False to refuse jobs whose model a function makes: nothing of the repository runs."""
    recorded: RecordedRun | None = None
    """The record of a run to compare the one job with, in place of its snapshot."""
    today: dt.date | None = None
    """Day on which entries of the allow-list are judged; None for today in UTC."""


def check(
    configuration: Configuration,
    jobs: Sequence[ConfiguredJob],
    options: CheckOptions,
    notify: Callable[[str], None] = lambda _: None,
    announce: Callable[[str], None] = lambda _: None,
) -> tuple[CheckReport, Narration]:
    """Check `jobs`. `notify` gets a few words about each step before it begins, and `announce` a
    sentence about each plan that takes long.

    Raises:
        ConfigError: the configuration names rules or settings of rules that do not exist.
    """
    began = time.perf_counter()
    # The package `config` knows no rules, so their names are checked only here.
    problems = rule_problems(configuration)
    if problems:
        raise ConfigError(problems)
    assessed = _assess(configuration, jobs, options, notify, announce)
    report = report_on(assessed, configuration, options, notify)
    return report, Narration(seconds=time.perf_counter() - began, cached=sum(one.cached for one in assessed))


def report_on(
    assessed: Sequence[Assessed],
    configuration: Configuration,
    options: CheckOptions,
    notify: Callable[[str], None] = lambda _: None,
) -> CheckReport:
    """Compare assessed jobs with what they are checked against, and report all findings."""
    running = selection_of(configuration).codes(all_rules())
    store = configuration.store
    is_to_prove = options.proofs and configuration.settings.check.verify == "tiny"
    proofs = prove(assessed, notify) if is_to_prove else {}
    checked: list[CheckedJob] = []
    found: list[Finding] = []
    unreadable = False
    for one in assessed:
        row, findings = _checked(one, configuration, store, options, proofs.get(one.job.key))
        loadable = _loadable(one, configuration, options, notify)
        checked.append(msgspec.structs.replace(row, checkpoint=loadable.holds))
        found += [*findings, *loadable.findings]
        unreadable |= loadable.is_unreadable
    if options.whole and options.snapshots and options.recorded is None:
        found += orphans([one.job for one in assessed], store)

    # Drift, proofs and orphans do not ask which rules are selected, so filter by code here.
    uncovered, allowed = _allow(
        [finding for finding in found if finding.code in running], configuration, running, options
    )
    # A job that cannot be planned is always reported: no selection and no entry can hide it.
    reported = [*(one.failure for one in assessed if one.failure), *uncovered]
    fail_on = configuration.settings.check.fail_on
    return CheckReport(
        folder=folder_in_repository(configuration.root),
        jobs=tuple(checked),
        findings=tuple(sorted(reported, key=worst_first)),
        allowed=allowed,
        fail_on=fail_on,
        # A checkpoint that is none is a wrong value of the user, as a model that is none.
        exit_code=max(_exit_code(assessed, reported, fail_on), ExitCode.USAGE if unreadable else ExitCode.OK),
    )


def _assess(
    configuration: Configuration,
    jobs: Sequence[ConfiguredJob],
    options: CheckOptions,
    notify: Callable[[str], None],
    announce: Callable[[str], None],
) -> list[Assessed]:
    """Plan each job, from the cache where possible, and run the selected rules on it."""
    selection = selection_of(configuration)
    cache = cache_of(configuration, wanted=options.cache)
    assessed = []
    for job in jobs:
        notify(f"planning {job.label}")
        with working_in(job.folder):
            if not options.code and runs_code(job.job.model):
                planned = refused(job)
                assessed.append(Assessed(job, None, planned.failure, planned.exit_code))
                continue
            assessed.append(assess_configured(job, configuration, selection, cache, announce))
    return assessed


def _loadable(
    one: Assessed, configuration: Configuration, options: CheckOptions, notify: Callable[[str], None]
) -> Loadable:
    """Compare a job with its checkpoint, if it can be planned and names one."""
    if one.assessment is None or one.job.checkpoint is None:
        return Loadable()
    notify(f"comparing {one.job.label} with its checkpoint")
    with working_in(one.job.folder):
        return compare_with_checkpoint(one.job, cache_of(configuration, wanted=options.cache))


def _checked(
    one: Assessed, configuration: Configuration, store: Store, options: CheckOptions, proofs: VerifyReport | None
) -> tuple[CheckedJob, list[Finding]]:
    """Return one job's row of the report, and all findings about the job."""
    job, assessment = one.job, one.assessment
    findings = list(assessment.findings) if assessment else []
    compared = Compared(None, ())
    snapshot = store.name(store.path(*job.key)) if options.snapshots else None
    if options.recorded:
        snapshot = options.recorded.name(configuration.root)
        if assessment:
            compared = compare_with_run(job, assessment, options.recorded, configuration.root)
    elif assessment and options.snapshots:
        required = configuration.settings.check.require_snapshot
        compared = compare_with_snapshot(job, assessment.snapshot, store, required=required, offer=options.offer)
    findings += compared.findings
    findings += proof_findings(proofs, job) if proofs else ()
    row = CheckedJob(
        job=job.name,
        layout=job.layout_name,
        axes=job.job.layout.label_as(assessment.snapshot.layout) if assessment else job.job.layout.label,
        model=job.job.model,
        placements=assessment.totals.placements if assessment else None,
        base_params=assessment.totals.base_params if assessment else None,
        trainable_params=assessment.totals.trainable_params if assessment else None,
        snapshot=snapshot,
        drift=compared.drift,
        proofs=proofs,
    )
    return row, findings


def _allow(
    found: list[Finding], configuration: Configuration, running: frozenset[str], options: CheckOptions
) -> tuple[list[Finding], int]:
    """Apply the allow-list: return what it does not cover, with findings about its own entries, and
    the number of findings that it covers.
    """
    if not options.allow:
        return found, 0
    # UTC, so that an entry expires at the same time on every machine.
    today = options.today or dt.datetime.now(tz=dt.UTC).date()
    divided = divide(found, configuration.settings.allow, today)
    unused = divided.unused if options.whole else ()
    about_entries = entry_findings(configuration, unused=unused, running=running, today=today)
    return [*divided.uncovered, *(finding for finding in about_entries if finding.code in running)], divided.count


def worst_first(finding: Finding) -> tuple[object, ...]:
    """Sort by severity, the worst first, and by code. Python's sort is stable, so that jobs stay in
    the order of the configuration.
    """
    severities = list(Severity)
    return severities.index(finding.severity), finding.code


def _exit_code(assessed: Sequence[Assessed], findings: Sequence[Finding], fail_on: Severity) -> ExitCode:
    # `ExitCode` rises with how bad an end is, so `max` finds the worst.
    worst = max((one.exit_code for one in assessed), default=ExitCode.OK)
    failing = any(finding.severity.reaches(fail_on) for finding in findings)
    return max(worst, ExitCode.FOUND if failing else ExitCode.OK)
