"""A check's report as JSON, a contract: `"schema": 1`; drift and findings stand apart. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from clora_inspect.check.report import CheckReport
    from clora_inspect.formats.look import Look


def render(report: CheckReport, _look: Look | None = None) -> str:
    """The document, the same for equal reports, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"
