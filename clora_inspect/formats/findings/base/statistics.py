"""Count how often each rule was broken, the most frequent first: `check --statistics`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora_inspect.formats.findings.base.groups import totals
from clora_inspect.formats.look import Look

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport


def render(report: CheckReport, look: Look | None = None) -> str:
    """Return one line for each rule, and the totals."""
    look = look or Look()
    # Not grouped: a finding of three jobs counts three times, as in the totals.
    counted = Counter((finding.code, finding.severity, finding.name) for finding in report.findings)
    width = len(str(max(counted.values(), default=0)))
    lines = [
        look.paint(f"{number:>{width}}  {code}  {severity:<7}  {name}")
        for (code, severity, name), number in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    return "".join(f"{line}\n" for line in [*lines, look.paint(totals(report.findings, len(report.jobs)))])
