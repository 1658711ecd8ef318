"""The story of a check: jobs -> plans -> findings and drift -> allow-list -> report. Read this
first.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.check.allow import counts, divide, is_expired
from clora_inspect.check.assessment import Assessed, assess_configured
from clora_inspect.check.git_repository import folder_in_repository
from clora_inspect.check.planning import cache_of
from clora_inspect.check.proofs import proof_findings, prove
from clora_inspect.check.report import CheckedJob, CheckReport, Narration
from clora_inspect.check.rule_names import rule_problems
from clora_inspect.check.snapshots import Compared, compare_with_snapshot, orphans
from clora_inspect.config.errors import ConfigError
from clora_inspect.config.working_folder import working_in
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.finding import Severity
from clora_inspect.rules import all_rules
from clora_inspect.rules import configuration as configuration_rules
from clora_inspect.rules.selection import Selection, resolved
from clora_inspect.snapshot.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.config.load import Configuration
    from clora_inspect.job.finding import Finding
    from clora_inspect.verify.report import VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What only the command line decides; everything else is in the settings."""

    whole: bool
    """Whether `jobs` are all that are configured: then orphaned snapshots and unused allowances can
    be told.
    """
    snapshots: bool = True
    offer: bool = True
    """Leave what differs to be reviewed; never in CI."""
    allow: bool = True
    cache: bool = True
    today: dt.date | None = None
    """The day on which allowances are judged; today when None."""


def check(
    configuration: Configuration,
    jobs: Sequence[ConfiguredJob],
    options: CheckOptions,
    notify: Callable[[str], None] = lambda _: None,
) -> tuple[CheckReport, Narration]:
    """Check `jobs`. `notify` is told what is being done, a few words at a time.

    Raises:
        ConfigError: a selection of rules that do not exist.
    """
    began = time.perf_counter()
    settings = configuration.settings
    problems = rule_problems(configuration)
    if problems:
        raise ConfigError(problems)
    selection = selection_of(configuration)
    running = selection.codes(all_rules())
    store = Store(configuration.snapshots, configuration.root)
    cache = cache_of(configuration, wanted=options.cache)
    assessed: list[Assessed] = []
    for job in jobs:
        notify(f"planning {job.label}")
        with working_in(job.folder):
            assessed.append(assess_configured(job, configuration, selection, cache))
    proofs = prove(assessed, notify) if settings.check.verify == "tiny" else {}
    checked: list[CheckedJob] = []
    found: list[Finding] = []
    for one in assessed:
        row, findings = _checked(one, configuration, store, options, proofs.get(one.job.key))
        checked.append(row)
        found += findings
    if options.whole and options.snapshots:
        found += orphans(jobs, store)
    left, allowed = _allow([finding for finding in found if finding.code in running], configuration, running, options)
    # What stopped a job from being planned is told whatever was selected, and cannot be allowed.
    left = [*(one.failure for one in assessed if one.failure), *left]
    report = CheckReport(
        folder=folder_in_repository(configuration.root),
        jobs=tuple(checked),
        findings=tuple(sorted(left, key=_order)),
        allowed=allowed,
        fail_on=settings.check.fail_on,
        exit_code=_exit_code(assessed, left, settings.check.fail_on),
    )
    return report, Narration(seconds=time.perf_counter() - began, cached=sum(one.cached for one in assessed))


def selection_of(configuration: Configuration) -> Selection:
    """The rules that the settings select."""
    settings = configuration.settings.check
    return Selection(
        select=tuple(settings.select),
        ignore=tuple(settings.ignore),
        extend_select=tuple(settings.extend_select),
        fail_on=settings.fail_on,
    )


def _checked(
    one: Assessed, configuration: Configuration, store: Store, options: CheckOptions, proofs: VerifyReport | None
) -> tuple[CheckedJob, list[Finding]]:
    """One job's row of the table, and what was found about it."""
    job, known = one.job, one.assessment
    findings = list(known.findings) if known else []
    compared = Compared(None, ())
    if known and options.snapshots:
        required = configuration.settings.check.require_snapshot
        compared = compare_with_snapshot(job, known.snapshot, store, required=required, offer=options.offer)
        findings += compared.findings
    findings += proof_findings(proofs, job) if proofs else ()
    row = CheckedJob(
        job=job.name,
        layout=job.layout_name,
        axes=job.job.layout.label,
        model=job.job.model,
        placements=known.totals.placements if known else None,
        base_params=known.totals.base_params if known else None,
        trainable_params=known.totals.trainable_params if known else None,
        snapshot=store.name(store.path(*job.key)) if options.snapshots else None,
        drift=compared.drift,
        proofs=proofs,
    )
    return row, findings


def _allow(
    found: list[Finding], configuration: Configuration, running: frozenset[str], options: CheckOptions
) -> tuple[list[Finding], int]:
    entries = configuration.settings.allow if options.allow else []
    today = options.today or dt.datetime.now(tz=dt.UTC).date()
    divided = divide(found, entries, today)
    about = (
        _about_entries(configuration, running, divided.unused if options.whole else (), today) if options.allow else ()
    )
    return [*divided.left, *(finding for finding in about if finding.code in running)], divided.count


def _about_entries(
    configuration: Configuration, running: frozenset[str], unused: Sequence[int], today: dt.date
) -> Iterator[Finding]:
    for number, entry in enumerate(configuration.settings.allow):
        location = configuration.location(("allow", number, "rule"))
        if is_expired(entry, today):
            yield configuration_rules.expired(entry, configuration.location(("allow", number, "until")))
        elif not counts(entry, today):
            yield configuration_rules.without_reason(entry, location)
        elif number in unused and running & resolved(entry.rule, all_rules()):
            yield configuration_rules.unused(entry, location)


def _order(finding: Finding) -> tuple[object, ...]:
    """As they are printed: the configuration's mistakes first, then by rule; jobs in the order in
    which they were checked stay so.
    """
    severities = list(Severity)
    return severities.index(finding.severity), finding.code


def _exit_code(assessed: Sequence[Assessed], findings: Sequence[Finding], fail_on: Severity) -> ExitCode:
    worst = max((one.exit_code for one in assessed), default=ExitCode.OK)
    failing = any(finding.severity.reaches(fail_on) for finding in findings)
    return max(worst, ExitCode.FOUND if failing else ExitCode.OK)
