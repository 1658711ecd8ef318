"""Group findings that say the same, so that a finding of several jobs or layouts is printed once
and counted for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clora_inspect.job.finding import Location


@dataclass(frozen=True, slots=True)
class Group:
    """One finding and the jobs that have it."""

    finding: Finding
    """The first finding of the group."""
    found_in: tuple[str, ...]
    """Names of job and layout, such as `llama3-8b train`, each once."""
    count: int
    """Number of findings in the group."""
    places: tuple[Location, ...] = ()
    """Lines of the configuration that the findings point at, each once."""

    @property
    def location(self) -> Location | None:
        """The line of the configuration that the first finding points at."""
        return self.finding.location

    @property
    def place(self) -> str:
        """The location as text, such as `pyproject.toml:8:12`; empty where there is none."""
        return place_of(self.location)


def groups(findings: Iterable[Finding], *, by_place: bool = False) -> list[Group]:
    """Group the findings. Groups keep the order of their first findings.

    Args:
        findings: the findings of a report.
        by_place: whether findings that point at different lines are kept apart. Formats that
            attach a finding to a line of a file want that; people read one sentence once.
    """
    alike: dict[object, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(_content(finding, by_place=by_place), []).append(finding)
    return [
        Group(
            several[0],
            tuple(dict.fromkeys(f"{one.job} {one.layout}" if one.layout else one.job for one in several if one.job)),
            len(several),
            tuple({place_of(one.location): one.location for one in several if one.location}.values()),
        )
        for several in alike.values()
    ]


def place_of(location: Location | None) -> str:
    """Return `pyproject.toml:8:12`, without the numbers that are not known; empty for None."""
    if location is None:
        return ""
    has_column = location.line and location.column is not None
    return f"{location.address}:{location.column}" if has_column else location.address


def totals(findings: Sequence[Finding], num_jobs: int) -> str:
    """Return a sentence such as `Found 3 errors (1 CL101, 2 CL703) in 2 of 3 plans.`"""
    if not findings:
        return f"Nothing found in {_plural(num_jobs, 'plan')}."
    parts = []
    for severity in Severity:
        codes = [finding.code for finding in findings if finding.severity is severity]
        if codes:
            by_code = ", ".join(f"{codes.count(code)} {code}" for code in sorted(set(codes)))
            parts.append(f"{_plural(len(codes), _NOUNS[severity])} ({by_code})")
    jobs = {(finding.job, finding.layout) for finding in findings if finding.job}
    # Findings of the configuration itself belong to no plan.
    where = f" in {len(jobs)} of {_plural(num_jobs, 'plan')}" if jobs and num_jobs else ""
    return f"Found {', '.join(parts)}{where}."


_NOUNS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _content(finding: Finding, *, by_place: bool) -> object:
    """Return the key of a finding's group: what a reader is told, without the job."""
    location = finding.location
    at_line = location is not None and location.line is not None
    return (
        finding.code,
        finding.severity,
        finding.message,
        finding.help,
        finding.details,
        finding.where,
        finding.target,
        # Without a line one annotation stands for one job: one edit may not answer all of them.
        (location if at_line else (finding.job, location.key if location else None)) if by_place else None,
    )
