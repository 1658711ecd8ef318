"""A check's report as JUnit XML: a suite for each job on each layout, a case for each finding.

A finding below `--fail-on` is a case that passed, with its text as the output of the case. A job
without findings is one case that passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from clora_inspect.formats.findings.base.groups import place_of
from clora_inspect.formats.glyphs import harmless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.check.report import CheckReport
    from clora_inspect.formats.look import Look
    from clora_inspect.job.finding import Finding, Severity


def render(report: CheckReport, _look: Look | None = None) -> str:
    """Return the document, ending in a newline."""
    # Jobs without findings come from the report, and findings of no job (of the configuration
    # itself) have a suite of their own.
    by_job: dict[str, list[Finding]] = {f"{job.job} {job.layout}": [] for job in report.jobs}
    for finding in report.findings:
        by_job.setdefault(_suite_name(finding), []).append(finding)
    suites = [_suite(name, findings, report.fail_on) for name, findings in by_job.items()]
    root = ET.Element("testsuites", name="clora-inspect")
    for name in ("tests", "failures"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite_name(finding: Finding) -> str:
    if finding.job is None:
        return "configuration"
    return f"{finding.job} {finding.layout}" if finding.layout else finding.job


def _suite(name: str, findings: Sequence[Finding], fail_on: Severity) -> ET.Element:
    name = _xml_text(name)
    cases = [_case(name, finding, fail_on) for finding in findings]
    # Without a case, a clean job would look like one that was not checked.
    cases = cases or [ET.Element("testcase", classname=name, name="rules and snapshot")]
    failures = sum(case.find("failure") is not None for case in cases)
    suite = ET.Element("testsuite", name=name, tests=str(len(cases)), failures=str(failures), errors="0", skipped="0")
    suite.extend(cases)
    return suite


def _case(suite: str, finding: Finding, fail_on: Severity) -> ET.Element:
    about = finding.where or finding.target
    name = f"{finding.code} {finding.name}" + (f": {about}" if about else "")
    case = ET.Element("testcase", classname=suite, name=_xml_text(name))
    if finding.location is not None:
        case.set("file", _xml_text(finding.location.file))
        if finding.location.line is not None:
            case.set("line", str(finding.location.line))
    place = place_of(finding.location)
    lines = [
        *([place] if place else []),
        finding.message,
        *finding.details,
        *([f"= {finding.help}"] if finding.help else []),
    ]
    if finding.severity.reaches(fail_on):
        inside = ET.SubElement(case, "failure", message=_xml_text(finding.message), type=str(finding.severity))
    else:
        inside = ET.SubElement(case, "system-out")
    inside.text = _xml_text("\n".join(lines))
    return case


def _xml_text(text: str) -> str:
    """Replace characters that XML 1.0 cannot hold: control characters, lone surrogates, U+FFFE and
    U+FFFF.
    """
    return "".join(
        one if one <= "\ud7ff" or "\ue000" <= one <= "\ufffd" or one > "\uffff" else "\ufffd" for one in harmless(text)
    )
