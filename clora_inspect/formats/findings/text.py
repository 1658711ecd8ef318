"""A check's report for people: each finding with the line that it points at, a table of the jobs,
and the totals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.findings.base.groups import Group, groups, place_of, totals
from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import change, count
from clora_inspect.formats.severity import SEVERITY_STYLES
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.job.layout import UNSET_ETP
from clora_inspect.verify.report import ProofStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.check.report import CheckedJob, CheckReport
    from clora_inspect.job.finding import Location

MOST_DETAILS = 12
"""Largest number of details printed for one finding; `-f json` has all."""

MOST_PLACES = 3
"""Largest number of further places printed for one finding."""

COLUMNS = (
    Column("job"),
    Column("layout", spare=3),
    Column("kept", right=True, spare=1),
    Column("added", right=True, spare=1),
    Column("removed", right=True, spare=1),
    Column("changed", right=True, spare=1),
    Column("params", spare=2),
)


_UNSET = f" ({UNSET_ETP})"


def render(report: CheckReport, look: Look | None = None) -> str:
    """Return the whole text, ending in a newline.

    It holds no control characters except the codes of colours.
    """
    return "".join(f"{line}\n" for line in _lines(report, look or Look()))


def render_findings(report: CheckReport, look: Look) -> str:
    """Return the findings alone; empty text if there are none."""
    return "".join(f"{line}\n" for line in _finding_lines(report, look))


def _finding_lines(report: CheckReport, look: Look) -> Iterator[str]:
    for number, group in enumerate(groups(report.findings)):
        if number:
            yield ""
        yield from group_lines(group, look)


def _lines(report: CheckReport, look: Look) -> Iterator[str]:
    if report.findings:
        yield from _finding_lines(report, look)
        yield ""
    if report.jobs:
        yield from table(COLUMNS, [Line(_cells(job, look), _style(job)) for job in report.jobs], look)
        if any(_UNSET in job.axes for job in report.jobs):
            yield look.paint(f"  * {UNSET_ETP}", Style.DIM)
        yield from _checkpoints(report, look)
        yield from _proofs(report, look)
        yield ""
    if report.allowed:
        yield look.paint(f"{count(report.allowed)} allowed by the allow-list; to see: --no-allow", Style.DIM)
    yield look.paint(totals(report.findings, len(report.jobs)), Style.RED if report.failing else Style.BOLD)


def group_lines(group: Group, look: Look) -> Iterator[str]:
    """Yield one finding: message, place, the line with carets under it, details and help."""
    finding = group.finding
    yield look.paint(
        f"{finding.code} {finding.severity} {finding.name}: {finding.message}",
        SEVERITY_STYLES[finding.severity] or Style.BOLD,
    )
    yield from _place(group.location, look)
    yield from _other_places(group, look)
    for detail in finding.details[:MOST_DETAILS]:
        yield look.paint(f"   {detail}")
    if len(finding.details) > MOST_DETAILS:
        yield look.paint(f"   and {count(len(finding.details) - MOST_DETAILS)} more; all: -f json", Style.DIM)
    if finding.help:
        yield look.paint(f"   = {finding.help}")
    if group.found_in:
        # One job may have the same finding more than once, and its name stands in the list once.
        times = f" ({group.count} times)" if group.count > len(group.found_in) else ""
        yield look.paint(f"   = in: {', '.join(group.found_in)}{times}", Style.DIM)
    yield look.paint(f"   = explain: clora-inspect explain {finding.code}", Style.DIM)


def _other_places(group: Group, look: Look) -> Iterator[str]:
    """Yield where else the same finding points: several jobs may have the same mistake."""
    # `in:` below names the jobs, so a long list of their lines would say nothing new.
    lines = [place_of(location) for location in group.places if location.line is not None]
    others = [place for place in lines if place != group.place]
    if others:
        more = f" and {count(len(others) - MOST_PLACES)} more" if len(others) > MOST_PLACES else ""
        yield look.paint(f"  --> also {', '.join(others[:MOST_PLACES])}{more}", Style.DIM)


def _place(location: Location | None, look: Look) -> Iterator[str]:
    """Yield the place, and below it the line of the configuration with carets under the value."""
    if location is None:
        return
    key = f"  {location.key}" if location.key else ""
    yield look.paint(f"  --> {place_of(location)}{key}", Style.DIM)
    if location.text is None or location.line is None:
        return
    number = str(location.line)
    gutter = " " * len(number)
    yield look.paint(f"{gutter} |", Style.DIM)
    # A tab would move the text away from the carets: columns count it as one character.
    yield look.paint(f"{number} | {location.text}".replace("\t", " "))
    if location.column is not None:
        carets = "^" * max(min(location.length or 1, len(location.text) - location.column + 1), 1)
        yield look.paint(f"{gutter} | {' ' * (location.column - 1)}{carets}", Style.RED)


def _axes(job: CheckedJob) -> str:
    # The words would make the table wider than a screen. They stand below it.
    return job.axes.replace(_UNSET, "*")


def _cells(job: CheckedJob, look: Look) -> tuple[str, ...]:
    drift = job.drift
    if drift is None:
        params = "no plan" if job.trainable_params is None else count(job.trainable_params)
        return (f"{job.job} {job.layout}", _axes(job), "-", "-", "-", "-", params)
    counts = tuple(count(number) for number in (drift.kept, drift.added, drift.removed, drift.changed))
    params = "unchanged" if drift.is_clean else change(drift.params_before, drift.params_after, look.glyphs.arrow)
    return (f"{job.job} {job.layout}", _axes(job), *counts, params)


def _style(job: CheckedJob) -> Style:
    # A job without a plan failed to build; the finding above the table says why.
    if job.placements is None:
        return Style.RED
    return Style.YELLOW if job.drift is not None and not job.drift.is_clean else Style.PLAIN


def _checkpoints(report: CheckReport, look: Look) -> Iterator[str]:
    """Yield one line for each job whose checkpoint was read."""
    for job in report.jobs:
        if job.checkpoint is not None:
            yield look.paint(f"  checkpoint of {job.job} {job.layout}: {job.checkpoint}")


def _proofs(report: CheckReport, look: Look) -> Iterator[str]:
    """Yield one line for each job whose surgery the check has proved."""
    for job in report.jobs:
        if job.proofs is None:
            continue
        by_status = {status: [one for one in job.proofs.proofs if one.status is status] for status in ProofStatus}
        sums = ", ".join(f"{len(proofs)} {status}" for status, proofs in by_status.items() if proofs)
        failed = by_status[ProofStatus.FAILED]
        yield look.paint(
            f"  verify {job.job} {job.layout}: {job.proofs.size}, {sums}" + (f": {failed[0].detail}" if failed else ""),
            Style.RED if failed else Style.PLAIN,
        )
