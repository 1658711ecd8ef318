"""`CheckReport`: what a check found, as frozen data: the same for every output format. Pure.

Nothing in it depends on the machine, the time or the cache, so that equal repositories give equal
bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora_inspect.exit_code import ExitCode
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.snapshot.drift import Drift
from clora_inspect.verify.report import VerifyReport

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = 1


class CheckedJob(msgspec.Struct, frozen=True, kw_only=True):
    """One layout of one job. Totals are the whole model's, each parameter counted once; None where
    no plan could be made.
    """

    job: str
    layout: str
    """Its name in the configuration."""
    axes: str
    """Its sizes: `tp4 pp2 sp`."""
    model: str
    placements: int | None = None
    base_params: int | None = None
    trainable_params: int | None = None
    snapshot: str | None = None
    """Path of its snapshot, relative to the folder of the configuration; None when none is kept."""
    drift: Drift | None = None
    """None when there is no readable snapshot to compare with."""
    proofs: VerifyReport | None = None
    """What `verify` proved; None when it was not asked."""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """All jobs of one check and everything found, in the order in which it is printed."""

    schema_version: int = msgspec.field(default=SCHEMA, name="schema")
    folder: str = ""
    """The folder of the configuration, from the root of the git repository; empty at the root.
    Files are named relative to it.
    """
    jobs: tuple[CheckedJob, ...]
    findings: tuple[Finding, ...]
    """Without the allowed ones."""
    allowed: int = 0
    """Findings that an entry of the allow-list covers."""
    fail_on: Severity = Severity.ERROR
    exit_code: ExitCode
    """What the command ends with, before `--exit-zero`."""

    def in_repository(self, file: str) -> str:
        """The path of `file`, which a finding names, from the root of the git repository."""
        return f"{self.folder}/{file}" if self.folder else file

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The findings that are bad enough to fail."""
        return tuple(finding for finding in self.findings if finding.severity.reaches(self.fail_on))


class Narration(msgspec.Struct, frozen=True, kw_only=True):
    """What a person likes to know and a file must not hold, because it differs from run to run."""

    seconds: float
    cached: int
    """Plans taken from the cache."""


def counts(findings: Iterable[Finding]) -> dict[Severity, int]:
    """How many findings there are of each severity, the worst first; severities without any are
    left out.
    """
    found = [finding.severity for finding in findings]
    return {severity: found.count(severity) for severity in Severity if severity in found}
