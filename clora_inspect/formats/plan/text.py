"""A plan as text for people: header, table, figures, findings and the closing line."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.plan.flow_table import traffic_lines
from clora_inspect.formats.plan.memory_table import memory_lines
from clora_inspect.formats.plan.placement_table import placement_lines
from clora_inspect.formats.plan.summary import header, summary, trainable
from clora_inspect.formats.plan.unadapted_table import unadapted_lines
from clora_inspect.formats.plan.view import ShownModules, View
from clora_inspect.formats.quantities import count
from clora_inspect.formats.severity import SEVERITY_STYLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.formats.plan.summary import Paragraph
    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan

INDENT = "  "


def render(
    plan: JobPlan,
    look: Look | None = None,
    view: View | None = None,
    *,
    findings: Iterable[Finding] | None = None,
    more: Iterable[str] = (),
) -> str:
    """Return the whole text, ending in a newline; empty text if there is nothing to report.

    It holds no control characters except the codes of colours.

    Args:
        plan: the plan.
        look: how the text may look.
        view: the part of the plan to show.
        findings: what to report, sorted by code; None for the plan's own findings.
        more: lines below the findings that say which commands show more.
    """
    look, view = look or Look(), view or View()
    found = plan.findings if findings is None else tuple(findings)
    lines = finding_lines(found, look) if view.findings_only else _plan_lines(plan, look, view, found, more)
    return "".join(f"{line}\n" for line in lines)


def finding_lines(findings: Iterable[Finding], look: Look) -> Iterator[str]:
    """Yield each finding and its help; findings that differ only in their message share both."""
    # `groupby` joins neighbours only: findings come sorted by code.
    for (code, name, severity, fix), alike in groupby(
        findings, key=lambda found: (found.code, found.name, found.severity, found.help)
    ):
        messages = f" {look.glyphs.dot} ".join(finding.message for finding in alike)
        yield from look.wrapped(f"{code} {severity} {name}: {messages}", style=SEVERITY_STYLES[severity])
        if fix:
            yield from look.wrapped(f"= {fix}", "   ", Style.DIM)


def _plan_lines(
    plan: JobPlan, look: Look, view: View, findings: tuple[Finding, ...], more: Iterable[str]
) -> Iterator[str]:
    yield from look.wrapped(header(plan, look.glyphs), style=Style.BOLD)
    yield ""
    yield from (
        unadapted_lines(plan, look, view) if view.only is ShownModules.MISSED else placement_lines(plan, look, view)
    )
    if view.pattern:
        yield look.paint(
            f'{INDENT}(only rows that "{view.pattern}" selects; the figures below are for the whole job)', Style.DIM
        )
    yield ""
    yield look.paint(INDENT + trainable(plan))
    yield from _paragraphs(summary(plan, look.glyphs, view.beside), look)
    if view.memory:
        yield ""
        yield from memory_lines(plan, look)
        yield ""
        yield from traffic_lines(plan, look)
    if findings:
        yield ""
        yield from finding_lines(findings, look)
    for number, line in enumerate(more):
        if not number:
            yield ""
        yield from look.wrapped(line, style=Style.DIM)
    yield ""
    # Users of Terraform know this line. A dry run only adds, and it changes no model.
    yield look.paint(
        f"Plan: {count(plan.totals.placements)} to add, 0 to change, 0 to remove. Nothing was modified.", Style.BOLD
    )


def _paragraphs(paragraphs: list[Paragraph], look: Look) -> Iterator[str]:
    """Yield the paragraphs with their labels in a column at the left."""
    width = max(len(label) for label, _ in paragraphs) + 2
    for label, text in paragraphs:
        yield from look.wrapped(text, INDENT + (f"{label}:" if label else "").ljust(width))
