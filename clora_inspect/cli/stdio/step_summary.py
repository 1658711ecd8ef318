"""The summary page of a GitHub workflow step: the file that `$GITHUB_STEP_SUMMARY` names gets the
report as Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.check.report import CheckReport

VARIABLE = "GITHUB_STEP_SUMMARY"
LARGEST = 1024 * 1024
"""Bytes that GitHub takes for one step."""


def write_step_summary(report: CheckReport, environment: Mapping[str, str]) -> None:
    """Append `report` to the page, where there is one. A page that cannot be written to is no
    reason to fail.
    """
    name = environment.get(VARIABLE)
    if not name:
        return
    from clora_inspect.formats.findings.markdown import render

    data = render(report).encode(errors="backslashreplace")
    try:
        with Path(name).open("ab") as page:
            page.write(
                data if len(data) <= LARGEST else data[: LARGEST - 100].rpartition(b"\n")[0] + b"\n\nCut: too long.\n"
            )
    except OSError:
        return
