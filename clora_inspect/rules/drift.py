"""CL7, drift: findings about a plan that differs from its snapshot or from a recorded run, or about
a snapshot that is missing, unreadable or left over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from clora_inspect.job.finding import Location, Severity
from clora_inspect.rules.base import Needs, Rule
from clora_inspect.snapshot.drift import Change

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.job.finding import Finding
    from clora_inspect.snapshot.drift import Drift, DriftLine


class DriftRule(Rule):
    """A rule that looks at a `Drift`; a check calls `drift_findings` and not `check`."""

    needs = Needs.SNAPSHOT
    severity = Severity.ERROR

    @classmethod
    def about(
        cls,
        message: str,
        *,
        job: str,
        layout: str,
        snapshot: str,
        fix: str | None,
        details: Iterable[str] = (),
        where: str | None = None,
    ) -> Finding:
        """Make a finding about the snapshot of one layout of a job; `snapshot` is its file."""
        found = cls.found(message, fix=fix, details=details, where=where, location=Location(file=snapshot))
        return msgspec.structs.replace(found, job=job, layout=layout)


class MissingSnapshot(DriftRule):
    """A job has no snapshot. Nobody has said yet that its adapters are right, and later changes of
    them cannot be noticed.

    Look at the plan. When it is what you mean, accept it and commit the file.

    Bad: a job in the configuration, and no `snapshots/JOB/LAYOUT.json`.
    Good: `clora-inspect snapshot accept JOB`, and the file in the commit.
    With `require-snapshot = false` under `[check]` this rule does not run.
    """

    code = "CL701"
    name = "missing-snapshot"


class PlacementAdded(DriftRule):
    """The plan has adapters that are not in the snapshot: more is adapted now than was accepted.

    Targets, exclusions, the model or the code that matches them changed. The new adapters need
    memory and are trained, and nobody has reviewed them.

    Bad: a wider pattern in `target_modules` that nobody meant.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL702"
    name = "placement-added"


class PlacementRemoved(DriftRule):
    """The snapshot has adapters that are not in the plan: less is adapted now than was accepted.

    The reason is often a typo in a target, or a newer release in which modules have other names.
    The loss still goes down, but less.

    Bad: `target_modules = ["linear_fc1_gat", ...]` where the snapshot has `linear_fc1[gate]`.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL703"
    name = "placement-removed"


class PlacementChanged(DriftRule):
    """Adapters have another rank, shape, sharding or name than in the snapshot, or a LoRA setting
    changed.

    Adapter checkpoints from before do not load into adapters of another rank, shape or name, except
    for those of a GPTModel into the HybridModel that it became. The sharding changes with the
    layout.

    Bad: `dim` changed from 16 to 32 between two runs that should resume each other.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL704"
    name = "placement-changed"


class BaseModelChanged(DriftRule):
    """The base model changed since the snapshot: its modules, their classes or their sizes.

    Here the model or megatron-core changed, and not the adapters alone. An adapter trained on the
    old base does not fit the new one, and patterns with layer numbers may mean other layers (a GPT
    block becomes two layers of a hybrid model).

    Bad: an upgrade that rearranges the module tree, unnoticed.
    Good: the new tree was reviewed, and `clora-inspect snapshot accept JOB` goes into the same
    commit.
    """

    code = "CL705"
    name = "base-model-changed"


class LayoutChanged(DriftRule):
    """The layout has other sizes than when the snapshot was accepted.

    The adapters of the whole model may be the same, but each rank's share of them is not.

    Bad: `train = { tp = 8 }` where the snapshot was accepted for `tp = 4`.
    Good: the change is meant, and `clora-inspect snapshot accept JOB` goes into the same commit.
    """

    code = "CL706"
    name = "layout-changed"


class OrphanSnapshot(DriftRule):
    """A snapshot belongs to no job: the job or the layout was renamed or removed, and no check
    looks at the file any more.

    Bad: `snapshots/llama3-8b/train.json` without a job `llama3-8b` that has a layout `train`.
    Good: `clora-inspect snapshot prune` removes it. A check never removes a snapshot.
    """

    code = "CL707"
    name = "orphan-snapshot"
    severity = Severity.WARNING


class SnapshotUnusable(DriftRule):
    """A snapshot cannot be read: it is damaged, edited by hand, in the middle of a merge, or
    written by a newer version of clora-inspect.

    Bad: `<<<<<<<` in the file after a merge.
    Good: the file restored from the repository's history, or the plan reviewed and accepted again.
    """

    code = "CL708"
    name = "snapshot-schema"


class RunConfigChanged(DriftRule):
    """The job asks for another config of the model than that of the recorded run.

    The adapters of the whole model may be the same, and yet another model was trained: with other
    heads, another normalisation or another precision. A field that the job leaves open is not
    compared: it is a setting of the launcher.

    Bad: `clora-inspect check JOB --recorded RUN` after `layernorm_epsilon` changed in the job.
    Good: the job as it was when the run was recorded, or a new run that is recorded.
    """

    code = "CL709"
    name = "run-config-changed"


class Reference(NamedTuple):
    """The thing that a plan is compared with."""

    file: str
    """The file, as findings name it."""
    called: str
    """`the snapshot`, or `the recorded run`."""
    fix: str
    """The fix that findings propose, for a change that is meant."""


def snapshot_reference(job: str, file: str) -> Reference:
    """Return what findings say of the accepted snapshot in `file`."""
    return Reference(file, "the snapshot", f"if this is intended: clora-inspect snapshot accept {job}")


def run_reference(file: str) -> Reference:
    """Return what findings say of the record of a run in `file`."""
    return Reference(
        file,
        "the recorded run",
        "check the job as it was when the run was trained; if the change is meant, record the next run with "
        "clora-inspect gate --record DIR",
    )


def drift_findings(drift: Drift, reference: Reference, *, job: str, layout: str) -> Iterator[Finding]:
    """Yield a finding for each kind of drift between a plan and what it is compared with."""
    called = reference.called

    def found(rule: type[DriftRule], message: str, lines: Iterable[str] = (), where: str | None = None) -> Finding:
        return rule.about(
            message,
            job=job,
            layout=layout,
            snapshot=reference.file,
            fix=reference.fix,
            details=lines,
            where=where,
        )

    if drift.layout:
        yield found(LayoutChanged, f'the layout "{layout}" differs from {called}: {", ".join(drift.layout)}')
    if drift.base:
        yield found(BaseModelChanged, f"the base model differs from {called}", drift.base)
    for rule, change, count, one, many, what in (
        (PlacementRemoved, Change.REMOVED, drift.removed, "is", "are", f"in {called} and not in the plan"),
        (PlacementAdded, Change.ADDED, drift.added, "is", "are", f"in the plan and not in {called}"),
        (PlacementChanged, Change.CHANGED, drift.changed, "differs", "differ", f"from {called}"),
    ):
        lines = [line for line in drift.lines if line.change is change]
        if count:
            message = f"{count:,} placements {many} {what}" if count > 1 else f"1 placement {one} {what}"
            where = lines[0].where if len(lines) == 1 else None
            yield found(rule, message, _details(lines), where)
    # Changed placements show their rank already.
    only_rank = all(setting.startswith("dim ") for setting in drift.settings)
    if drift.settings and not (drift.changed and only_rank):
        yield found(PlacementChanged, f"LoRA settings differ from {called}: {', '.join(drift.settings)}")


def _details(lines: list[DriftLine]) -> Iterator[str]:
    """Yield a line for each group of placements, in columns."""
    cells = [
        (f"{line.change.mark} {line.where}", _what(line), f"{line.params:+,}" if line.params else "") for line in lines
    ]
    # The last column is not padded: lines must not end in blanks.
    widths = [max(len(row[column]) for row in cells) for column in range(2)] if cells else []
    for place, what, params in cells:
        yield f"{place.ljust(widths[0])}   {what.ljust(widths[1])}   {params}".rstrip()


def _what(line: DriftLine) -> str:
    """Describe a group of placements; for changed ones only what differs: `rank 16 -> 32`."""
    if line.before is None or line.after is None:
        return line.before or line.after or ""
    before, after = line.before.split(", "), line.after.split(", ")
    # Equally long descriptions name the same fields in the same order.
    if len(before) == len(after):
        differing = [f"{was} -> {_value(was, now)}" for was, now in zip(before, after, strict=True) if was != now]
    else:
        differing = [f"{line.before} -> {line.after}"]
    renamed = [f"was {line.was}"] if line.was else []
    return ", ".join([*renamed, *differing])


def _value(was: str, now: str) -> str:
    """Return what `now` says without the words that it shares with `was`: `32` for `rank 32`."""
    name = was.rpartition(" ")[0] + " "
    return now.removeprefix(name)
