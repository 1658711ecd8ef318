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

    @property
    def location(self) -> Location | None:
        """The line of the configuration that the first finding points at."""
        return self.finding.location

    @property
    def place(self) -> str:
        """The location as text, such as `pyproject.toml:8:12`; empty where there is none."""
        return place_of(self.location)


def groups(findings: Iterable[Finding]) -> list[Group]:
    """Group the findings. Groups keep the order of their first findings."""
    alike: dict[object, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(_content(finding), []).append(finding)
    return [
        Group(
            several[0],
            tuple(dict.fromkeys(f"{one.job} {one.layout}" if one.layout else one.job for one in several if one.job)),
            len(several),
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


def _content(finding: Finding) -> object:
    """Return the key of a finding's group: all of its fields except the job.

    Findings that point at no line of the configuration are grouped within a job only, because one
    edit may not answer all of them.
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
