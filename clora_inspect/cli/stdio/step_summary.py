"""Add the report, as Markdown, to the summary page of a GitHub workflow step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.check.report import CheckReport

VARIABLE = "GITHUB_STEP_SUMMARY"
"""The variable with the path of the page, which GitHub sets in every step."""

LARGEST_PAGE = 1024 * 1024
"""Bytes. GitHub drops the whole page of a step when it is larger."""

_CUT = b"\n\nCut: too long.\n"


def write_step_summary(report: CheckReport, environment: Mapping[str, str]) -> None:
    """Append `report` to the page, if there is one. A page that cannot be written is ignored."""
    name = environment.get(VARIABLE)
    if not name:
        return
    from clora_inspect.formats.findings.markdown import render

    data = render(report).encode(errors="backslashreplace")
    if len(data) > LARGEST_PAGE:
        # Cut at a line, with room for `_CUT`: half a character would not be UTF-8.
        data = data[: LARGEST_PAGE - 100].rpartition(b"\n")[0] + _CUT
    try:
        with Path(name).open("ab") as page:
            page.write(data)
    except OSError:
        return
