"""A finding: something a person should look at, as frozen data. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """How bad it is, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing found, under its rule's code."""

    code: str
    name: str
    severity: Severity
    message: str
    help: str | None = None
    """What to do about it: one line, a command or what to write instead."""
