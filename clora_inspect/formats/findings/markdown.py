"""A check's report as Markdown, for a pull request or the summary page of a workflow step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clora_inspect.formats.findings.base.groups import Group, groups, totals
from clora_inspect.formats.glyphs import harmless
from clora_inspect.formats.quantities import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.check.report import CheckedJob, CheckReport
    from clora_inspect.formats.look import Look

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
_TITLES = ("job", "layout", "kept", "added", "removed", "changed", "trainable params")


def render(report: CheckReport, _look: Look | None = None) -> str:
    """Return the document, ending in a newline."""
    return "".join(f"{line}\n" for line in _lines(report))


def _lines(report: CheckReport) -> Iterator[str]:
    yield "## clora-inspect"
    yield ""
    yield text(totals(report.findings, len(report.jobs)))
    if report.jobs:
        yield ""
        yield f"| {' | '.join(_TITLES)} |"
        # Five columns of numbers, aligned at the right.
        yield f"|{'|'.join(['---', '---', *['---:'] * 5])}|"
        yield from (f"| {' | '.join(map(text, _cells(job)))} |" for job in report.jobs)
    found = groups(report.findings)
    if found:
        yield ""
        # A list and not a table: messages are long, and GitHub would break them in narrow cells.
        for group in found:
            yield from _item(group)
    if report.allowed:
        yield ""
        yield f"{count(report.allowed)} allowed by the allow-list."


def text(written: str) -> str:
    """Escape `written` for one line of Markdown: nothing in it becomes markup or HTML."""
    return _SPECIAL.sub(r"\\\1", harmless(written)).replace("\n", " ")


def code(written: str) -> str:
    """Return `written` as a code span."""
    shown = harmless(written).replace("\n", " ")
    # Backticks inside a span cannot be escaped: the fence must be longer than each run of them.
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    # CommonMark strips one blank at each end of a span, so that text may begin with a backtick.
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _cells(job: CheckedJob) -> tuple[str, ...]:
    name = f"{job.job} {job.layout}"
    drift = job.drift
    if drift is None:
        params = "no plan" if job.trainable_params is None else count(job.trainable_params)
        return (name, job.axes, "-", "-", "-", "-", params)
    params = count(drift.params_after)
    if drift.params_before != drift.params_after:
        params = f"{count(drift.params_before)} → {params}"
    return (name, job.axes, *(count(n) for n in (drift.kept, drift.added, drift.removed, drift.changed)), params)


def _item(group: Group) -> Iterator[str]:
    finding = group.finding
    place = f" {code(group.place)}" if group.place else ""
    yield f"- **{finding.code} {finding.severity}** {text(finding.name)}: {text(finding.message)}{place}"
    yield from (f"  - {code(detail)}" for detail in finding.details)
    if finding.help:
        yield f"  - {text(finding.help)}"
    if group.found_in:
        yield f"  - in: {text(', '.join(group.found_in))}"
