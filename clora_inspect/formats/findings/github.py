"""Workflow commands of GitHub Actions: an annotation at the line of the configuration for each
finding.

GitHub shows ten annotations of a level for a step and drops the rest silently. The tenth therefore
sums up all that would be dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.findings.base.groups import Group, groups
from clora_inspect.formats.glyphs import harmless
from clora_inspect.job.finding import Severity

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport
    from clora_inspect.formats.look import Look

COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
MOST = 10
"""Annotations of one level that GitHub shows for a step."""

MOST_DETAILS = 50
"""Largest number of details in one annotation. GitHub cuts a longer text."""


def render(report: CheckReport, _look: Look | None = None) -> str:
    """Return the commands, errors first; empty text without findings."""
    found = groups(report.findings, by_place=True)
    lines: list[str] = []
    for severity, command in COMMANDS.items():
        alike = [group for group in found if group.finding.severity is severity]
        # Each level has ten annotations of its own.
        shown = alike if len(alike) <= MOST else alike[: MOST - 1]
        lines += [_annotation(command, group, report) for group in shown]
        if len(shown) < len(alike):
            rest = alike[len(shown) :]
            listed = "\n".join(f"{group.finding.code} {group.finding.name}: {group.finding.message}" for group in rest)
            lines.append(f"::{command} title={_property(f'{len(rest)} more')}::{_data(listed)}")
    return "".join(f"{line}\n" for line in lines)


def _annotation(command: str, group: Group, report: CheckReport) -> str:
    finding, location = group.finding, group.location
    properties = {"title": f"{finding.code} {finding.name}"}
    if location is not None:
        properties["file"] = report.in_repository(location.file)
        if location.line is not None:
            properties["line"] = str(location.line)
        if location.line is not None and location.column is not None:
            properties["col"] = str(location.column)
            # `endColumn` is the column after the last character.
            properties["endColumn"] = str(location.column + (location.length or 1))
    lines = [finding.message, *finding.details[:MOST_DETAILS]]
    if len(finding.details) > MOST_DETAILS:
        lines.append(f"and {len(finding.details) - MOST_DETAILS:,} more")
    if finding.help:
        lines.append(f"= {finding.help}")
    if group.found_in:
        lines.append(f"= in: {', '.join(group.found_in)}")
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{command} {written}::{_data(chr(10).join(lines))}"


def _data(text: str) -> str:
    # The percent sign is escaped first, because the other escapes are written with it.
    return harmless(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    # Inside a property, GitHub also reads colons and commas as separators.
    return _data(text).replace(":", "%3A").replace(",", "%2C")
