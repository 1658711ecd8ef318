"""Add the report, as Markdown, to the summary page of a GitHub workflow step."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clora_inspect.check.report import CheckReport

if sys.platform == "win32":
    _FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_BINARY
else:
    # Without O_NONBLOCK, opening a pipe waits until somebody reads from it.
    _FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY

VARIABLE = "GITHUB_STEP_SUMMARY"
"""The variable with the path of the page, which GitHub sets in every step."""

LARGEST_PAGE = 1024 * 1024
"""Bytes. GitHub drops the whole page of a step when it is larger."""

_CUT = b"\n\nCut: too long.\n"


def write_step_summary(report: CheckReport, environment: Mapping[str, str]) -> None:
    """Append `report` to the page, if there is one. A page that is no regular file, or cannot be
    written, is ignored.
    """
    name = environment.get(VARIABLE)
    if not name:
        return
    from clora_inspect.formats.findings.markdown import render

    data = render(report).encode(errors="backslashreplace")
    if len(data) > LARGEST_PAGE:
        # Cut at a line, with room for `_CUT`: half a character would not be UTF-8.
        data = data[: LARGEST_PAGE - 100].rpartition(b"\n")[0] + _CUT
    # ValueError: a name that no file can have.
    with suppress(OSError, ValueError):
        _append(name, data)


def _append(name: str, data: bytes) -> None:
    descriptor = os.open(name, _FLAGS, 0o666)
    try:
        # A pipe takes a page only as fast as somebody reads it, and perhaps nobody does.
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            with os.fdopen(descriptor, "ab", closefd=False) as page:
                page.write(data)
    finally:
        os.close(descriptor)
