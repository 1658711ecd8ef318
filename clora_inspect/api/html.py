"""A report as HTML for a notebook: escaped, without scripts, and without anything to load."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from clora_inspect.formats.glyphs import UNICODE
from clora_inspect.formats.look import Look
from clora_inspect.formats.plan.rows import sections
from clora_inspect.formats.plan.summary import header, trainable
from clora_inspect.formats.plan.text import render
from clora_inspect.formats.quantities import count
from clora_inspect.graph.printable import printable
from clora_inspect.job.finding import Severity
from clora_inspect.job.layer_ranges import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan

_COLOURS = {Severity.ERROR: "#c62828", Severity.WARNING: "#b26a00"}
_LEFT, _RIGHT = "text-align:left", "text-align:right"
_ADAPTERS = (
    ("target", _LEFT),
    ("inside", _LEFT),
    ("in → out", _RIGHT),
    ("A, per rank", _RIGHT),
    ("B, per rank", _RIGHT),
    ("layers", _LEFT),
    ("params", _RIGHT),
)
_FINDINGS = (("rule", _LEFT), ("what", _LEFT), ("where", _LEFT))


def as_html(plan: JobPlan, findings: Sequence[Finding], summary: str) -> str:
    """Return a `<div>`. Colours are left to the page but for those of severities.

    Args:
        plan: the plan.
        findings: what was found in it.
        summary: one sentence about the findings.
    """
    root = ET.Element("div")
    _text(ET.SubElement(root, "p"), "b", header(plan, UNICODE))
    _text(root, "p", trainable(plan))
    _table(root, _ADAPTERS, _adapters(plan))
    _text(root, "p", summary)
    if findings:
        _table(root, _FINDINGS, ((_rule(each), _words(each), _place(each)) for each in findings), findings)
    details = ET.SubElement(root, "details")
    _text(details, "summary", "the whole plan")
    # Line by line, because `printable` would escape the ends of lines.
    text = render(plan, Look(), findings=())
    ET.SubElement(details, "pre").text = "\n".join(map(printable, text.splitlines()))
    # The browser's method: `<td></td>` and no `<td/>`.
    return ET.tostring(root, encoding="unicode", method="html")


def _adapters(plan: JobPlan) -> Iterable[tuple[str, ...]]:
    look = Look()
    for _, rows in sections(plan):
        for row in rows:
            shape = f"{row.in_features} → {row.out_features}"
            shapes = look.shape(row.a_shape), look.shape(row.b_shape)
            yield row.name, row.inside or "", shape, *shapes, fold(row.layers), count(row.params)


def _rule(finding: Finding) -> str:
    return f"{finding.code} {finding.severity}"


def _words(finding: Finding) -> str:
    return f"{finding.name}: {finding.message}" + (f"; {finding.help}" if finding.help else "")


def _place(finding: Finding) -> str:
    where = [finding.location.address] if finding.location else []
    return " ".join([*where, finding.where or ""]).strip()


def _table(
    parent: ET.Element,
    columns: Sequence[tuple[str, str]],
    rows: Iterable[tuple[str, ...]],
    findings: Sequence[Finding] = (),
) -> None:
    table = ET.SubElement(parent, "table")
    head = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    for name, style in columns:
        _text(head, "th", name, style=style, scope="col")
    body = ET.SubElement(table, "tbody")
    for number, cells in enumerate(rows):
        row = ET.SubElement(body, "tr")
        colour = _COLOURS.get(findings[number].severity) if findings else None
        for (_, style), words in zip(columns, cells, strict=True):
            _text(row, "td", words, style=style + (f";color:{colour}" if colour and words is cells[0] else ""))


def _text(parent: ET.Element, tag: str, words: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = printable(words)
