"""A check's report with one JSON object per line: findings, then jobs, then the sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.check.report import counts

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport
    from clora_inspect.formats.look import Look


def render(report: CheckReport, _look: Look | None = None) -> str:
    """Return the lines; the key `type` of each is `finding`, `job` or `summary`."""
    # Findings come first, so that a reader of the stream can act before the sums are there.
    records: list[dict[str, Any]] = [
        *({"type": "finding", **msgspec.to_builtins(finding)} for finding in report.findings),
        *({"type": "job", **msgspec.to_builtins(job)} for job in report.jobs),
        {
            "type": "summary",
            "schema": report.schema_version,
            "findings": {str(severity): number for severity, number in counts(report.findings).items()},
            "allowed": report.allowed,
            "jobs": len(report.jobs),
            "exit_code": int(report.exit_code),
        },
    ]
    return "".join(f"{msgspec.json.encode(record).decode()}\n" for record in records)
