"""A finding: something that a person should look at. Pure data."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """How bad a finding is, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    def reaches(self, threshold: Severity) -> bool:
        """Return whether this is as bad as `threshold`, or worse."""
        # As strings, "error" would come before "info" and "warning" last.
        order = list(Severity)
        return order.index(self) <= order.index(threshold)


class Location(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place in a file of the repository. Lines and columns (in characters) count from 1."""

    file: str
    """Path relative to the folder of the configuration, with forward slashes."""
    line: int | None = None
    column: int | None = None
    length: int | None = None
    """Number of characters to underline on that line."""
    text: str | None = None
    """The whole line, so that a format can underline words without opening the file again."""
    key: str | None = None
    """Key of the configuration that stands there, such as
    `tool.clora-inspect.lora.main.target_modules[4]`.
    """

    @property
    def address(self) -> str:
        """File and line as editors and terminals take them: `pyproject.toml:8`."""
        return f"{self.file}:{self.line}" if self.line else self.file


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a rule, a proof or a check found."""

    code: str
    name: str
    severity: Severity
    message: str
    help: str | None = None
    """One line with a fix: a command, or what to write instead."""
    details: tuple[str, ...] = ()
    """More lines, such as the placements that were added and removed. They are printed as they
    are.
    """
    where: str | None = None
    """Path of the module, or of many modules folded over layers:
    `decoder.layers.{0..31}.mlp.linear_fc1[gate]`.
    """
    target: str | None = None
    """The entry of `target_modules` or `exclude_modules` that the finding is about."""
    job: str | None = None
    layout: str | None = None
    """Name of the job's layout. A finding that two layouts share is printed once and counted
    twice.
    """
    location: Location | None = None
    """The place to open in an editor: in the configuration, else in the snapshot, else in the
    model's source.
    """
