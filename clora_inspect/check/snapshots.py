"""One planned job against its snapshot: drift, findings about it, and what is left to be reviewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.rules.drift import MissingSnapshot, OrphanSnapshot, SnapshotUnusable, drift_findings
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
    """What came of comparing one job."""

    drift: Drift | None
    findings: tuple[Finding, ...]


def compare_with_snapshot(job: ConfiguredJob, now: Snapshot, store: Store, *, required: bool, offer: bool) -> Compared:
    """Compare the job as it is `now` with the accepted snapshot. With `offer` what differs is left
    as `LAYOUT.json.new` to be reviewed.
    """
    name = store.name(store.path(*job.key))
    accept = f"clora-inspect snapshot accept {job.name}"
    try:
        before = store.read(*job.key)
    except SnapshotError as error:
        _offer(job, store, now, wanted=offer)
        message, _, fix = str(error).partition(". ")
        return Compared(
            None,
            (SnapshotUnusable.about(f"{message}.", job=job.name, layout=job.layout_name, snapshot=name, fix=fix),),
        )
    if before is None:
        _offer(job, store, now, wanted=offer and required)
        missing = MissingSnapshot.about(
            f"there is no snapshot {name}",
            job=job.name,
            layout=job.layout_name,
            snapshot=name,
            fix=f"right as it is? {accept}",
        )
        return Compared(None, (missing,) if required else ())
    drift = compare(before, now)
    if drift.is_clean:
        if offer:
            store.reject(*job.key)
        return Compared(drift, ())
    _offer(job, store, now, wanted=offer)
    return Compared(drift, tuple(drift_findings(drift, job=job.name, layout=job.layout_name, snapshot=name)))


def orphans(jobs: Iterable[ConfiguredJob], store: Store) -> Iterator[Finding]:
    """Snapshots of no job. `jobs` are all that are configured."""
    known = {job.key for job in jobs}
    for job, layout in store.kept():
        if (job, layout) not in known:
            yield OrphanSnapshot.about(
                f"{store.name(store.path(job, layout))} belongs to no configured job",
                job=job,
                layout=layout,
                snapshot=store.name(store.path(job, layout)),
                fix="clora-inspect snapshot prune",
            )


def _offer(job: ConfiguredJob, store: Store, now: Snapshot, *, wanted: bool) -> None:
    """A check that cannot write leaves nothing to review and is a check all the same."""
    if not wanted:
        return
    try:
        store.offer(*job.key, now)
    except SnapshotError:
        return
