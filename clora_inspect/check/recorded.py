"""Compare a planned job with the record of a run, which the gate wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clora.folders.regular_file import read_regular_file
from clora_inspect.check.snapshots import Compared
from clora_inspect.launch.comparison import config_changes
from clora_inspect.launch.expected import asked_for
from clora_inspect.launch.settings import RECORD_NAME
from clora_inspect.rules.drift import RunConfigChanged, drift_findings, run_reference
from clora_inspect.snapshot.diff import compare
from clora_inspect.snapshot.errors import SnapshotError
from clora_inspect.snapshot.record import LARGEST_FILE, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.check.assessment import Assessment
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.job.finding import Finding
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.snapshot.record import RunFacts, Snapshot


class RecordedRun(NamedTuple):
    """The record of a run."""

    file: Path
    snapshot: Snapshot
    run: RunFacts

    def name(self, root: Path) -> str:
        """Return the path of the file for findings, relative to `root` if it is below."""
        file = self.file.resolve()
        return file.relative_to(root.resolve()).as_posix() if file.is_relative_to(root.resolve()) else str(file)


def read_recorded(folder: Path) -> RecordedRun:
    """Read the record of the run in `folder`.

    Raises:
        SnapshotError: there is none, or it is damaged.
    """
    path = folder / RECORD_NAME
    if folder.is_file():
        raise SnapshotError(f"{folder} is a file. Name the folder of the run, which holds {RECORD_NAME}.")
    try:
        data = read_regular_file(path, LARGEST_FILE)
    except FileNotFoundError:
        raise SnapshotError(
            f"{folder} has no {RECORD_NAME}, the record of a run. Record one when it starts: "
            f"clora-inspect gate --record {folder} -- COMMAND, or clora_inspect.gate(model, record=FOLDER)."
        ) from None
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror or error}.") from None
    snapshot = decode(data, str(path))
    if snapshot.run is None:
        raise SnapshotError(
            f"{path} is a snapshot of a job and not the record of a run. Compare two plans: clora-inspect diff {path} "
            "JOB."
        )
    return RecordedRun(path, snapshot, snapshot.run)


def compare_with_run(job: ConfiguredJob, now: Assessment, recorded: RecordedRun, root: Path) -> Compared:
    """Compare the job as it is `now` with what the ranks of a run held."""
    drift = compare(recorded.snapshot, now.snapshot)
    return Compared(drift, tuple(_findings(job, now, recorded, recorded.name(root), drift)))


def _findings(job: ConfiguredJob, now: Assessment, recorded: RecordedRun, name: str, drift: Drift) -> Iterator[Finding]:
    reference = run_reference(name)
    yield from drift_findings(drift, reference, job=job.name, layout=job.layout_name)
    changes = list(config_changes(recorded.run.config, asked_for(now.config, now.overrides)))
    if changes:
        yield RunConfigChanged.about(
            f"the config of the model differs from {reference.called} in {len(changes)} "
            f"field{'s' if len(changes) > 1 else ''}",
            job=job.name,
            layout=job.layout_name,
            snapshot=name,
            fix=reference.fix,
            details=changes,
        )
