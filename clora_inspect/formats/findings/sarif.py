"""A check's report as SARIF 2.1.0, which code scanning reads: a result for each finding, at its
line, under its rule.

A result keeps its fingerprint as long as it is about the same place of the same job, even when the
line moves. GitHub needs that to recognise an alert that somebody dismissed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from clora_inspect.formats.glyphs import harmless
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules import all_rules
from clora_inspect.rules.base import FAMILIES

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport
    from clora_inspect.formats.look import Look
    from clora_inspect.job.finding import Location
    from clora_inspect.rules.base import Rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
HOME = "https://github.com/clora-inspect/clora-inspect"
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def render(report: CheckReport, _look: Look | None = None) -> str:
    """Return the document, ending in a newline."""
    codes = list(dict.fromkeys(finding.code for finding in report.findings))
    known = {rule.code: rule for rule in all_rules()}
    numbers = {code: number for number, code in enumerate(sorted(codes))}
    # Reversed, so that the first finding of a code stays in the dict.
    by_code = {finding.code: finding for finding in reversed(report.findings)}
    run = {
        "tool": {
            "driver": {
                "name": "clora-inspect",
                "informationUri": HOME,
                "rules": [_rule(known.get(code), by_code[code]) for code in sorted(codes)],
            }
        },
        "originalUriBaseIds": {"SRCROOT": {"description": {"text": "The root of the repository."}}},
        # Our columns count characters; the default of SARIF is UTF-16 code units.
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, numbers[finding.code], report) for finding in report.findings],
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"


def _rule(rule: type[Rule] | None, finding: Finding) -> dict[str, Any]:
    """Describe a rule. If no such rule is known (`rule` is None), its finding describes it."""
    described: dict[str, Any] = {"id": finding.code, "name": _pascal(finding.name)}
    page = rule.page() if rule else ""
    first, _, rest = page.partition("\n\n")
    summary = " ".join(first.split()) or finding.name
    # GitHub shows the short description in the list of alerts, and `help` beside a single alert.
    described["shortDescription"] = {"text": summary}
    described["fullDescription"] = {"text": " ".join(rest.split()) or summary}
    described["help"] = {"text": page or summary}
    described["defaultConfiguration"] = {"level": LEVELS[rule.severity if rule else finding.severity]}
    described["properties"] = {"tags": [FAMILIES.get(finding.code[:3], "clora-inspect")]}
    return described


def _result(finding: Finding, rule_index: int, report: CheckReport) -> dict[str, Any]:
    lines = [finding.message, *finding.details, *([finding.help] if finding.help else [])]
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": LEVELS[finding.severity],
        "message": {"text": harmless("\n".join(lines))},
        # The version in the name changes when the hash is made of something else.
        "partialFingerprints": {"cloraInspect/v1": _fingerprint(finding)},
    }
    place: dict[str, Any] = {}
    if finding.location is not None:
        place["physicalLocation"] = _physical(finding.location, report.in_repository(finding.location.file))
    if finding.where is not None:
        place["logicalLocations"] = [{"fullyQualifiedName": harmless(finding.where), "kind": "module"}]
    if place:
        result["locations"] = [place]
    properties = {"job": finding.job, "layout": finding.layout, "target": finding.target}
    written = {name: harmless(value) for name, value in properties.items() if value is not None}
    if written:
        result["properties"] = written
    return result


def _physical(location: Location, path: str) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(path), "uriBaseId": "SRCROOT"}}
    if location.line is not None:
        region = {"startLine": location.line}
        if location.column is not None:
            region |= {"startColumn": location.column, "endColumn": location.column + (location.length or 1)}
        physical["region"] = region
    return physical


def _fingerprint(finding: Finding) -> str:
    """Return a hash of the place and the job that a finding is about.

    Line and message are left out: lines move, and messages have numbers that change.
    """
    key = finding.location.key or finding.location.file if finding.location else ""
    about = (finding.code, finding.job, finding.layout, finding.where, finding.target, key)
    return hashlib.sha256("\0".join(part or "" for part in about).encode(errors="replace")).hexdigest()[:32]


def _pascal(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))
