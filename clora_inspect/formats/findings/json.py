"""A check's report as JSON, in the schema of `clora_inspect.check.report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport
    from clora_inspect.formats.look import Look


def render(report: CheckReport, _look: Look | None = None) -> str:
    """Return the document, ending in a newline; equal reports give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"
