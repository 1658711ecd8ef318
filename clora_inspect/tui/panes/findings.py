"""The findings as lines, each of them a link to the place it is about. Pure text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.patterns import nearest
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.tui.panes.lines import Line, Link, Span, Target, Tone, keep_end, keep_start, line
from clora_inspect.tui.tree.rows import nodes_at

if TYPE_CHECKING:
    from clora_inspect.tui.tree.nodes import ModelNodes

GLYPHS = {Severity.ERROR: "✖", Severity.WARNING: "▲", Severity.INFO: "ℹ"}
TONES = {Severity.ERROR: Tone.BAD, Severity.WARNING: Tone.WARN, Severity.INFO: Tone.PLAIN}


def finding_lines(findings: tuple[Finding, ...], chosen: int | None, width: int) -> list[Line]:
    """One line for each finding: severity, code, name, what, and its place at the end, whose end is
    kept.
    """
    if not findings:
        return [line(Span("● nothing found", Tone.GOOD))]
    lines = []
    longest = max(len(finding.name) for finding in findings)
    for number, finding in enumerate(findings):
        link = Link(Target.FINDING, str(number))
        head = f"{GLYPHS[finding.severity]} {finding.severity:<7} {finding.code} {finding.name:<{longest}}  "
        if width < 90:
            head = f"{GLYPHS[finding.severity]} {finding.severity:<7} {finding.code}  "
        room = max(width - len(head) - 2, 10)
        place = place_of(finding)
        message = finding.message
        if place and len(message) + len(place) + 2 <= room:
            message = f"{message}  {place}"
        elif place and room > 60:
            message = f"{keep_start(message, room - 32)}  {keep_end(place, 30)}"
        lines.append(
            line(
                Span("▶ ", Tone.TITLE) if number == chosen else Span("  "),
                Span(head, TONES[finding.severity], link),
                Span(keep_start(message, room), Tone.PLAIN, link),
            )
        )
    return lines


def finding_detail(finding: Finding, width: int) -> list[Line]:
    """A finding in full: the rule screen's first part."""
    from clora_inspect.tui.panes.lines import BLANK, wrapped

    lines = [
        line(
            Span(
                f"{GLYPHS[finding.severity]} {finding.severity} {finding.code} {finding.name}", TONES[finding.severity]
            )
        ),
        BLANK,
        *wrapped(finding.message, width),
    ]
    if finding.help:
        lines += wrapped(finding.help, width, Tone.GOOD, lead="= ")
    for detail in finding.details:
        lines += wrapped(detail, width, Tone.DIM, lead="  ")
    if finding.where:
        lines += [
            BLANK,
            line(
                Span("where  ", Tone.DIM),
                Span(keep_end(finding.where, width - 7), Tone.LINK, Link(Target.NODE, finding.where)),
            ),
        ]
    place = place_of(finding)
    if place:
        lines.append(
            line(Span("file   ", Tone.DIM), Span(keep_end(place, width - 7), Tone.LINK, Link(Target.FILE, place)))
        )
    return lines


def place_of(finding: Finding) -> str:
    """`pyproject.toml:8`; empty when it stands in no file."""
    if finding.location is None:
        return ""
    return f"{finding.location.file}:{finding.location.line}" if finding.location.line else finding.location.file


def node_of(nodes: ModelNodes, finding: Finding) -> int | None:
    """The node to jump to: where it is, or, for a target that hits nothing, the module whose target
    is nearest to it.
    """
    if finding.where:
        found = nodes_at(nodes, finding.where.partition(",")[0].strip())
        if found:
            return found[0]
    written = finding.target or (
        finding.message.split('"')[1] if finding.code == "CL101" and finding.message.count('"') >= 2 else None
    )
    return _nearest_node(nodes, written) if written else None


def _nearest_node(nodes: ModelNodes, target: str) -> int | None:
    from clora.fused import PARTS_BY_TARGET

    by_name: dict[str, int] = {}
    for node, name in enumerate(nodes.names):
        if name and name not in by_name and (nodes.statuses[node] or name.startswith("[")):
            by_name[name] = node
    for canonical, (fused, _) in PARTS_BY_TARGET.items():
        if fused in by_name:
            by_name.setdefault(canonical, by_name[fused])
    near = nearest(target, by_name)
    return by_name[near[0]] if near else None
