"""Findings that say the same, together: one that several jobs or layouts have is printed once and
counted as often. Pure.
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
    """One finding, and everywhere it was found."""

    finding: Finding
    """The first of them."""
    found_in: tuple[str, ...]
    """`llama3-8b train`, once for each finding that belongs to a job."""
    count: int

    @property
    def location(self) -> Location | None:
        """Where the first of them points."""
        return self.finding.location

    @property
    def place(self) -> str:
        """`pyproject.toml:8:12`; empty where it points nowhere."""
        return place_of(self.location)


def groups(findings: Iterable[Finding]) -> list[Group]:
    """The findings in their order, those that say the same at the place of the first."""
    alike: dict[object, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(_said(finding), []).append(finding)
    return [
        Group(
            several[0],
            tuple(dict.fromkeys(f"{one.job} {one.layout}" if one.layout else one.job for one in several if one.job)),
            len(several),
        )
        for several in alike.values()
    ]


def place_of(location: Location | None) -> str:
    """`pyproject.toml:8:12`, as far as it is known; empty for nowhere."""
    if location is None:
        return ""
    numbers = [number for number in (location.line, location.column if location.line else None) if number is not None]
    return ":".join([location.file, *map(str, numbers)])


def totals(findings: Sequence[Finding], num_jobs: int) -> str:
    """`Found 3 errors (1 CL101, 2 CL703) in 2 of 3 plans.`"""
    if not findings:
        return f"Nothing found in {_plural(num_jobs, 'plan')}."
    parts = []
    for severity in Severity:
        codes = [finding.code for finding in findings if finding.severity is severity]
        if codes:
            by_code = ", ".join(f"{codes.count(code)} {code}" for code in sorted(set(codes)))
            parts.append(f"{_plural(len(codes), _NOUNS[severity])} ({by_code})")
    jobs = {(finding.job, finding.layout) for finding in findings if finding.job}
    where = f" in {len(jobs)} of {_plural(num_jobs, 'plan')}" if jobs and num_jobs else ""
    return f"Found {', '.join(parts)}{where}."


_NOUNS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _said(finding: Finding) -> object:
    """What makes two findings the same: all but the job; and the place, unless it is a line of the
    configuration.
    """
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
        location if at_line else (finding.job, location.key if location else None),
    )
