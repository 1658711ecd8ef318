"""The Findings pane: one line for each finding, a link to the module that it is about; and the
finding in full for the rule's screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.fused import PARTS_BY_TARGET
from clora.patterns import nearest
from clora.plan import Fate
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, keep_end, keep_start, line, wrapped
from clora_inspect.tui.tree.rows import nodes_at

if TYPE_CHECKING:
    from clora_inspect.job.finding import Location
    from clora_inspect.tui.tree.nodes import ModelNodes

GLYPHS = {Severity.ERROR: "✖", Severity.WARNING: "▲", Severity.INFO: "ℹ"}
TONES = {Severity.ERROR: Tone.BAD, Severity.WARNING: Tone.WARN, Severity.INFO: Tone.PLAIN}


def finding_lines(findings: tuple[Finding, ...], chosen: int | None, width: int) -> list[Line]:
    """Return one line for each finding: severity, code, name, message and place.

    Args:
        findings: the findings, in the order of the pane.
        chosen: the index of the finding under the cursor.
        width: the widest line, in cells; narrow panes leave out the names.
    """
    if not findings:
        return [line(Span("● nothing found", Tone.GOOD))]
    lines = []
    longest = max(len(finding.name) for finding in findings)
    for number, finding in enumerate(findings):
        link = Link(Target.FINDING, str(number))
        head = f"{GLYPHS[finding.severity]} {finding.severity:<7} {finding.code} {finding.name:<{longest}}  "
        if width < 90:
            # The code is enough: the name stands on the rule's screen.
            head = f"{GLYPHS[finding.severity]} {finding.severity:<7} {finding.code}  "
        room = max(width - len(head) - 2, 10)
        place = place_of(finding.location)
        message = finding.message
        # A place that does not fit keeps 30 cells on a wide pane, and goes on a narrow one.
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
    """Return a finding in full, for the top of the rule's screen."""
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
    place = place_of(finding.location)
    if place:
        lines.append(
            line(Span("file   ", Tone.DIM), Span(keep_end(place, width - 7), Tone.LINK, Link(Target.FILE, place)))
        )
    return lines


def place_of(location: Location | None) -> str:
    """Return the place as editors read it, such as `pyproject.toml:8`; empty for None."""
    return location.address if location is not None else ""


def node_of(nodes: ModelNodes, finding: Finding) -> int | None:
    """Return the node that a finding leads to; None where there is none.

    An unmatched target leads to the module that has the most similar name.
    """
    if finding.where:
        # A finding about several modules names them in one string.
        found = nodes_at(nodes, finding.where.partition(",")[0].strip())
        if found:
            return found[0]
    return _nearest_node(nodes, finding.target) if finding.target else None


def _nearest_node(nodes: ModelNodes, target: str) -> int | None:
    by_name: dict[str, int] = {}
    for node, name in enumerate(nodes.names):
        if name and name not in by_name and (nodes.fates[node] is not Fate.NO_PARAMETERS or name.startswith("[")):
            by_name[name] = node
    # A target may miss the name of a canonical part, which is no module: look for the fused linear.
    for canonical, (fused, _) in PARTS_BY_TARGET.items():
        if fused in by_name:
            by_name.setdefault(canonical, by_name[fused])
    near = nearest(target, by_name)
    return by_name[near[0]] if near else None
