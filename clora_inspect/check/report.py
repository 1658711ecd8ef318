"""`CheckReport`: what a check found, as frozen data for every output format. Pure.

Nothing in it depends on the machine, the time or the cache, so that checks of equal repositories
write equal bytes.
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
    """One layout of one job.

    Numbers are the whole model's, with each parameter counted once. They are None when the job
    cannot be planned.
    """

    job: str
    layout: str
    """Name of the layout in the configuration."""
    axes: str
    """Sizes of the layout: `tp4 pp2 sp`."""
    model: str
    placements: int | None = None
    base_params: int | None = None
    trainable_params: int | None = None
    snapshot: str | None = None
    """Path of the snapshot, relative to the folder of the configuration; None when the check looked
    at no snapshots.
    """
    drift: Drift | None = None
    """Drift from the snapshot; None when there is no snapshot that can be read."""
    checkpoint: str | None = None
    """Content of the job's checkpoint, in words; None when it names none that can be read."""
    proofs: VerifyReport | None = None
    """Report of `verify`; None when the check proved nothing for this job."""

    @property
    def planned(self) -> bool:
        """True if the job could be planned."""
        return self.placements is not None


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """All jobs of one check and all findings, in the order in which they are printed."""

    schema_version: int = msgspec.field(default=SCHEMA, name="schema")
    folder: str = ""
    """Folder of the configuration, from the root of the git repository; empty at the root. The
    files that findings name are relative to this folder.
    """
    jobs: tuple[CheckedJob, ...]
    findings: tuple[Finding, ...]
    """Findings that no entry of the allow-list covers."""
    allowed: int = 0
    """Number of findings that an entry covers."""
    fail_on: Severity = Severity.ERROR
    exit_code: ExitCode
    """Exit status of the command without `--exit-zero`."""

    def in_repository(self, file: str) -> str:
        """Return the path of a finding's `file` from the root of the git repository."""
        return f"{self.folder}/{file}" if self.folder else file

    @property
    def failing(self) -> tuple[Finding, ...]:
        """Findings that make the check fail."""
        return tuple(finding for finding in self.findings if finding.severity.reaches(self.fail_on))


class Narration(msgspec.Struct, frozen=True, kw_only=True):
    """Facts for people that no file may hold, because they differ from run to run."""

    seconds: float
    cached: int
    """Number of jobs for which no model was built."""


def counts(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Count the findings of each severity, the worst first. Severities without any are left out."""
    found = [finding.severity for finding in findings]
    return {severity: found.count(severity) for severity in Severity if severity in found}
