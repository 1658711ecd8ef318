"""Compare a planned job with its snapshot, and leave a changed one to be reviewed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.rules.drift import (
    MissingSnapshot,
    OrphanSnapshot,
    SnapshotUnusable,
    drift_findings,
    snapshot_reference,
)
from clora_inspect.snapshot.diff import compare
from clora_inspect.snapshot.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.job.finding import Finding
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.snapshot.record import Snapshot
    from clora_inspect.snapshot.store import Store


@dataclass(frozen=True, slots=True)
class Compared:
    """The outcome of comparing one job with its snapshot."""

    drift: Drift | None
    """None when there is no snapshot that can be read."""
    findings: tuple[Finding, ...]


def compare_with_snapshot(job: ConfiguredJob, now: Snapshot, store: Store, *, required: bool, offer: bool) -> Compared:
    """Compare the job as it is `now` with the accepted snapshot.

    Args:
        job: the job.
        now: a snapshot of its plan.
        store: the accepted snapshots.
        required: whether a missing snapshot is a finding.
        offer: whether to write a snapshot that differs as `LAYOUT.json.new`, for
            `clora-inspect snapshot review`.
    """
    name = store.name(store.path(*job.key))
    accept = store.accept_command(job.name)
    try:
        before = store.read(*job.key)
    except SnapshotError as error:
        _offer(job, store, now, wanted=offer)
        # A SnapshotError says in its first sentence what is wrong, and then what to do.
        message, _, fix = str(error).partition(". ")
        return Compared(
            None,
            (
                SnapshotUnusable.about(
                    f"{message.removesuffix('.')}.", job=job.name, layout=job.layout_name, snapshot=name, fix=fix
                ),
            ),
        )
    if before is None:
        # A project that requires no snapshots does not want to be asked for its first one.
        _offer(job, store, now, wanted=offer and required)
        missing = MissingSnapshot.about(
            f"there is no snapshot {name}",
            job=job.name,
            layout=job.layout_name,
            snapshot=name,
            fix=f"if the plan is right: {accept}",
        )
        return Compared(None, (missing,) if required else ())
    drift = compare(before, now)
    if drift.is_clean:
        if offer:
            # The file of an earlier check is outdated: there is nothing to review any more.
            with suppress(SnapshotError):
                store.reject(*job.key)
        return Compared(drift, ())
    _offer(job, store, now, wanted=offer)
    return Compared(
        drift, tuple(drift_findings(drift, snapshot_reference(job.name, name), job=job.name, layout=job.layout_name))
    )


def orphans(jobs: Iterable[ConfiguredJob], store: Store) -> Iterator[Finding]:
    """Yield a finding for each snapshot that belongs to none of `jobs`, all that are configured.

    A file that pruning would leave is none.
    """
    known = {job.key for job in jobs}
    for job, layout in store.kept():
        if (job, layout) not in known and store.may_delete(store.path(job, layout)):
            yield OrphanSnapshot.about(
                f"{store.name(store.path(job, layout))} belongs to no configured job",
                job=job,
                layout=layout,
                snapshot=store.name(store.path(job, layout)),
                fix="clora-inspect snapshot prune",
            )


def _offer(job: ConfiguredJob, store: Store, now: Snapshot, *, wanted: bool) -> None:
    if not wanted:
        return
    try:
        store.offer(*job.key, now)
    except SnapshotError:
        # In a folder that cannot be written to there is nothing to review, but the check goes on.
        return
