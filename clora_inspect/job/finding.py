"""A finding: something a person should look at, as frozen data. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """How bad it is, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    def reaches(self, threshold: Severity) -> bool:
        """Whether this is as bad as `threshold`, or worse."""
        order = list(Severity)
        return order.index(self) <= order.index(threshold)


class Location(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place in a file of the repository. Lines and columns count from 1, columns in characters."""

    file: str
    """Relative to the folder of the configuration, with forward slashes."""
    line: int | None = None
    column: int | None = None
    length: int | None = None
    """Characters on that line to underline."""
    text: str | None = None
    """The whole line, so that a caret can be set under its words without opening the file."""
    key: str | None = None
    """The key of the configuration that stands there:
    `tool.clora-inspect.lora.main.target_modules[4]`.
    """


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing found, under its rule's code."""

    code: str
    name: str
    severity: Severity
    message: str
    help: str | None = None
    """What to do about it: one line, a command or what to write instead."""
    details: tuple[str, ...] = ()
    """Lines that say more than the message, such as the placements that came and went; printed as
    they are.
    """
    where: str | None = None
    """The module, or the folded modules, that it is about:
    `decoder.layers.{0..31}.mlp.linear_fc1[gate]`.
    """
    target: str | None = None
    """The string of `target_modules` (or `exclude_modules`) that it is about."""
    job: str | None = None
    layout: str | None = None
    """Name of the job's layout. The same finding in two layouts is printed once and counted twice."""
    location: Location | None = None
    """What to open in an editor: the line of the configuration, else the snapshot, else the model's
    source.
    """
